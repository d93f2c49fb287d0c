"""An end for every request to a Hub, and for all of a call's together, whatever a server does in between.

A client's timeouts are for the next byte: a server that sends one byte a second is waited for without end, and so is
one that asks to come back tomorrow. Here a request is waited for in another thread, so it ends on time in any case.
The limits belong to the call that set them: other threads of the process may have theirs at the same time.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http

from longattn_hf.hub.refusals import httpx

#: The longest wait that a server may ask for, in seconds.
LONGEST_WAIT = 600.0
# a socket counts its milliseconds in 31 bits; this is eleven days
_MOST_SECONDS = 1e6
# the slowest line that is waited for, in bytes a second
_SLOWEST = 250_000

T = TypeVar("T")


@dataclass
class _Call:
    """What a call waits for: seconds in one request, and the moment (of `time.monotonic`) when all has to end."""

    seconds: float
    ends: float

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()


_call: ContextVar[_Call | None] = ContextVar("_call", default=None)
_lock = threading.Lock()
# all that run now, for the threads of the client's own pools, which do not know whose they are
_running: list[_Call] = []
_users_factory: Callable[[], httpx.Client]


@contextmanager
def bounded_timeouts(seconds: float, *, whole: float | None = None) -> Iterator[None]:
    """Lets no request of huggingface_hub take longer than `seconds`, and all inside together no longer than `whole`.

    Both are given more time for what they send, as much as a slow line needs (see `allow`).

    Args:
        seconds: For one request, from its start to the last byte of its answer.
        whole: For everything inside; default: twenty times `seconds`.

    Raises:
        ValueError: A limit is no number above 0.
    """
    whole = 20 * seconds if whole is None else whole
    if not (seconds > 0 and whole > 0):
        raise ValueError(f"timeout={seconds} and deadline={whole} are given: both must be seconds above 0")
    call = _Call(min(seconds, _MOST_SECONDS), time.monotonic() + whole)
    global _users_factory
    with _lock:
        if not _running:
            # the library tells its factory to nobody, and the user's own (a proxy, a certificate) has to stay in use
            _users_factory = _http._GLOBAL_CLIENT_FACTORY
            set_client_factory(_bounded_client)
        _running.append(call)
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)
        call.ends = 0
        with _lock:
            _running.remove(call)
            if not _running and _http._GLOBAL_CLIENT_FACTORY is _bounded_client:
                set_client_factory(_users_factory)


def allow(seconds: float, size: int) -> float:
    """Seconds for something that sends `size` bytes over the slowest line that is waited for."""
    return seconds + size / _SLOWEST


def time_left() -> float:
    """Seconds until the call's end; without end outside of `bounded_timeouts`."""
    call = _call.get()
    return call.left if call else float("inf")


def run_within(size: int, step: Callable[[], T]) -> T:
    """Runs a step that may hang outside of Python, such as an upload of hf_xet, with the time of one request.

    Args:
        size: How many bytes it sends.
        step: What to do.

    Raises:
        httpx.ReadTimeout: The step did not end in time; it makes no further request.
    """
    outer = _call.get()
    if outer is None:
        return step()
    inner = _Call(outer.seconds, min(outer.ends, time.monotonic() + allow(outer.seconds, size)))
    token = _call.set(inner)
    try:
        return _wait_for(inner.left, step)
    finally:
        inner.ends = 0
        _call.reset(token)


def _wait_for(seconds: float, step: Callable[[], T]) -> T:
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(step())
        except BaseException as error:
            # whatever it is, it is raised where it is waited for
            outcome.set_exception(error)

    # a daemon: a process does not wait for it in the end
    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    try:
        return outcome.result(max(0, seconds))
    except TimeoutError:
        if outcome.done():
            raise
        raise httpx.ReadTimeout(f"no complete answer within {seconds:.0f} s") from None


def _bounded_client() -> httpx.Client:
    client = _users_factory()
    send = client.send

    def send_bounded(request: httpx.Request, **options: Any) -> httpx.Response:
        own = _call.get()
        with _lock:
            call = own or max(_running, key=lambda running: running.left, default=None)
        if call is None:
            return send(request, **options)
        size = request.headers.get("Content-Length", "")
        seconds = min(call.left, allow(call.seconds, int(size) if size.isdecimal() else 0))
        if seconds <= 0:
            raise ConnectionError("the time for all requests is over")
        # so that the thread that waits ends too; request by request, as many of the library's ask for no timeout
        given = request.extensions.get("timeout") or {}
        limits = {"connect": min(seconds, 30.0), "read": seconds, "write": seconds, "pool": seconds}
        limits = {kind: min(given.get(kind) or most, most) for kind, most in limits.items()}
        request.extensions = {**request.extensions, "timeout": limits}

        def exchange() -> httpx.Response:
            response = send(request, **options)
            # what a call of ours streams is small; in a thread that nobody knows, it may be a model
            if own:
                response.read()
            return response

        try:
            response = _wait_for(seconds, exchange)
        except httpx.TimeoutException as error:
            if call.left > 0:
                raise
            # not one that the library would try again
            raise ConnectionError("the time for all requests is over") from error
        _shorten_waits(response.headers, min(LONGEST_WAIT, call.left))
        return response

    client.send = send_bounded  # type: ignore[method-assign]
    return client


def _shorten_waits(headers: httpx.Headers, most: float) -> None:
    """Cuts the waits that a server asks for, which the library would sleep as they are; odd ones are dropped."""

    def shorten(digits: str) -> str:
        # int reads no number of thousands of digits
        return str(min(int(digits[:9]), max(0, int(most))))

    if asked := headers.get("Retry-After", "").strip():
        headers["Retry-After"] = shorten(asked) if re.fullmatch("[0-9]+", asked) else ""
    if limit := headers.get("RateLimit"):
        headers["RateLimit"] = re.sub(r"(\bt\s*=\s*)(\d+)", lambda part: part[1] + shorten(part[2]), limit)
