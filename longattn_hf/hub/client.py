"""Bounded patience with a Hub: timeouts, retries, and errors that say what to do."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, get_token, set_client_factory
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http, parse_ratelimit_headers

try:
    # whichever library this release of huggingface_hub speaks through
    from huggingface_hub.utils import httpx
except ImportError:
    # releases before 1.31 do not say
    import httpx  # type: ignore[no-redef]

logger = logging.getLogger(__name__)

# 409 and 412 are a concurrent push; the caller looks at the new head before it tries again
_PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 600.0
# a gateway's HTML in place of JSON; a download that never got an answer
_FAILURES = (HfHubHTTPError, httpx.TransportError, ConnectionError, json.JSONDecodeError, LocalEntryNotFoundError)

_clients = threading.Lock()
_bounded = 0

T = TypeVar("T")


@contextmanager
def bounded_timeouts(seconds: float) -> Iterator[None]:
    """Lets no request of huggingface_hub wait longer than `seconds` for its next byte; its own default is for ever."""
    global _bounded
    with _clients:
        # the library tells its factory to nobody, and the user's own (a proxy, a certificate) has to stay in use
        previous = _http._GLOBAL_CLIENT_FACTORY

        limits = {"connect": min(seconds, 30.0), "read": seconds, "write": seconds, "pool": seconds}

        def limit(request: httpx.Request) -> None:
            given = request.extensions.get("timeout") or {}
            within = {kind: min(given.get(kind) or most, most) for kind, most in limits.items()}
            request.extensions = {**request.extensions, "timeout": within}

        def factory() -> httpx.Client:
            client = previous()
            # request by request: many of the library's calls ask for no timeout, which overrules the client's own
            client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], limit]}
            return client

        if not _bounded:
            set_client_factory(factory)
        _bounded += 1
    try:
        yield
    finally:
        with _clients:
            _bounded -= 1
            if not _bounded:
                set_client_factory(previous)


def persist(step: Callable[[], T], *, what: str, attempts: int, last_word: str) -> T:
    """Runs `step` until it succeeds, at most `attempts` times, with longer and longer waits in between.

    `step` must be safe to run again after it did its work but its answer was lost.

    Args:
        step: What to do.
        what: What it is, for messages, for example "publishing me/data".
        attempts: How often to try, at least 1.
        last_word: Said in the end where no attempt succeeded: in what state things are and what to do.

    Returns:
        What `step` returns.

    Raises:
        ValueError: The Hub refuses (token, permission, gate, repository, revision): trying again is of no use.
        ConnectionError: Every attempt failed for a reason that could have passed.
    """
    if attempts < 1:
        raise ValueError(f"attempts={attempts} is given; at least 1 is needed")
    for attempt in range(1, attempts + 1):
        try:
            return step()
        except (*_FAILURES, RuntimeError) as error:
            # an upload's failure comes wrapped in a RuntimeError
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
            if not _may_pass(cause):
                if not isinstance(cause, HfHubHTTPError):
                    raise
                raise refusal(cause, what) from error
            reason = describe(cause)
            if attempt == attempts:
                message = f"{what} gave up after {attempts} attempts, the last one with: {reason}. {last_word}"
                raise ConnectionError(message) from error
            wait = _wait(cause, attempt)
            logger.warning("%s: %s; attempt %d of %d follows in %.0f s", what, reason, attempt + 1, attempts, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def commit_folder(
    folder: Path,
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    private: bool | None = None,
    attempts: int = 6,
    space_sdk: str | None = None,
) -> str:
    """Makes a folder's files those of a model repository, in one commit; none where they are there already.

    With `space_sdk`, such as `"gradio"`, the repository is a Space.

    Returns:
        The commit.

    Raises:
        ValueError: The Hub refuses: token, permission, name.
        ConnectionError: Every attempt failed.
    """
    api, kind = HfApi(token=usable_token(token)), "space" if space_sdk else "model"

    def commit() -> str:
        api.create_repo(repo_id, repo_type=kind, space_sdk=space_sdk, private=private, exist_ok=True)
        head = api.repo_info(repo_id, repo_type=kind).sha
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths]
        return api.create_commit(repo_id, additions, commit_message=message, repo_type=kind, parent_commit=head).oid

    with bounded_timeouts(300.0):
        last_word = "Readers see what was there before, or all of this; the same call goes on with what is missing"
        return persist(commit, what=f"publishing {repo_id}", attempts=attempts, last_word=last_word)


def refusal(error: HfHubHTTPError, what: str) -> ValueError:
    """Says what to do about a refusal of the Hub that another attempt will not change."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        todo = "the repository is gated: ask for access on its page, then log in with `hf auth login` or set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        todo = "there is no such branch, tag or commit: check `revision`"
    elif isinstance(error, EntryNotFoundError):
        todo = "the repository has no such file"
    elif isinstance(error, RepositoryNotFoundError):
        todo = (
            "there is no such repository, or it is private and the token may not see it: check the name, and log in "
            "with `hf auth login` or set HF_TOKEN"
        )
    elif status == 401:
        todo = "the Hub does not accept the token: log in with `hf auth login` or set HF_TOKEN to a valid one"
    elif status == 403:
        todo = "the token may not do this: it needs write permission on this repository or its owner's namespace"
    else:
        todo = "the Hub refused the request"
    return ValueError(f"{what} is not possible: {todo} ({describe(error)})")


def describe(error: BaseException) -> str:
    """One line about an error, without the query of an address: signed upload addresses carry credentials there."""
    server = f" {error.response.status_code} {error.server_message or ''}" if isinstance(error, HfHubHTTPError) else ""
    text = server or f" {error}"
    return re.sub(r"\?[^\s'\"]+", "?...", f"{type(error).__name__}:{' '.join(text.split())[:300]}")


def usable_token(token: str | None) -> str:
    """The given token, or that of the environment or login; a broken one is refused before any client can quote it."""
    token = token or get_token()
    if not token:
        raise ValueError("no token: log in with `hf auth login`, set HF_TOKEN or give `token`")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("the token holds spaces, line breaks or characters that no token has: check how it was set")
    return token


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, _FAILURES)


def _wait(error: BaseException, attempt: int) -> float:
    wait = 2.0**attempt
    if isinstance(error, HfHubHTTPError):
        headers = error.response.headers
        limit = parse_ratelimit_headers(headers)
        if headers.get("Retry-After", "").strip().isdigit():
            wait = max(wait, float(headers["Retry-After"]) + 1)
        elif error.response.status_code == 429 and limit and limit.remaining == 0:
            wait = max(wait, limit.reset_in_seconds + 1.0)
    return min(wait, _LONGEST_WAIT)
