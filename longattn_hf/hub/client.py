"""Bounded patience with a Hub: what is tried again, what is refused at once, and for how long."""

import json
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import get_token
from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers

from longattn_hf.hub.deadlines import LONGEST_WAIT, bounded_timeouts, time_left
from longattn_hf.hub.refusals import describe, httpx, is_expired_address, refusal, remedy, status_of

__all__ = ["bounded_timeouts", "describe", "httpx", "persist", "refusal", "usable_token"]

logger = logging.getLogger(__name__)

# 409 and 412 are a concurrent push; the caller looks at the new head before it tries again
_PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504}
# a gateway's HTML in place of JSON; a download that never got an answer
_FAILURES = (HfHubHTTPError, httpx.RequestError, ConnectionError, json.JSONDecodeError, LocalEntryNotFoundError)
_LASTING = (httpx.TooManyRedirects, httpx.UnsupportedProtocol, OfflineModeIsEnabled)
# what the client stumbles over where an answer is not a Hub's
_ODD = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, FileMetadataError, httpx.InvalidURL)

T = TypeVar("T")


def persist(step: Callable[[], T], *, what: str, attempts: int, last_word: str) -> T:
    """Runs `step` until it succeeds, at most `attempts` times, with longer and longer waits in between.

    `step` must be safe to run again after it did its work but its answer was lost. Inside of `bounded_timeouts`, no
    attempt begins that could not end in time.

    Args:
        step: What to do.
        what: What it is, for messages, for example "publishing me/data".
        attempts: How often to try, at least 1.
        last_word: Said in the end where no attempt succeeded: in what state things are and what to do.

    Returns:
        What `step` returns.

    Raises:
        ValueError: The Hub refuses (token, permission, gate, quota, repository, revision), or does not answer as one:
            trying again is of no use.
        ConnectionError: Every attempt failed for a reason that could have passed, or the time is over.
    """
    if attempts < 1:
        raise ValueError(f"attempts={attempts} is given; at least 1 is needed")
    for attempt in range(1, attempts + 1):
        try:
            return step()
        except (*_FAILURES, *_ODD) as error:
            cause = _cause_of(error)
            if not isinstance(cause, _FAILURES) and not _is_of_the_client(error):
                raise
            if not _may_pass(cause):
                raise ValueError(f"{refusal(cause, what)}. {last_word}") from error
            reason, wait = f"{remedy(cause)} ({describe(cause)})", _wait(cause, attempt)
            if time_left() <= 0 or attempt < attempts and time_left() <= wait:
                message = f"{what} did not end in the time it has, the last attempt with: {reason}. {last_word}"
                raise ConnectionError(message) from error
            if attempt == attempts:
                message = f"{what} gave up after {attempts} attempts, the last one with: {reason}. {last_word}"
                raise ConnectionError(message) from error
            logger.warning("%s: %s; attempt %d of %d follows in %.0f s", what, reason, attempt + 1, attempts, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def usable_token(token: str | None) -> str:
    """The given token, or that of the environment or login; a broken one is refused before any client can quote it."""
    token = token or get_token()
    if not token:
        raise ValueError("no token: log in with `hf auth login`, set HF_TOKEN or give `token`")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("the token holds spaces, line breaks or characters that no token has: check how it was set")
    return token


def _cause_of(error: BaseException) -> BaseException:
    """The failure itself: an upload's comes wrapped in a RuntimeError, a download's in a file that is not there."""
    cause = error.__cause__
    if type(error) is RuntimeError and cause:
        return _cause_of(cause)
    answered = isinstance(cause, HfHubHTTPError | httpx.RequestError | FileMetadataError)
    return cause if cause and answered and isinstance(error, LocalEntryNotFoundError) else error


def _is_of_the_client(error: BaseException) -> bool:
    """Whether an error was raised inside of huggingface_hub, and not by code of ours."""
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_globals.get("__name__", "").startswith("huggingface_hub."):
            return True
        trace = trace.tb_next
    return False


def _may_pass(error: BaseException) -> bool:
    if status := status_of(error):
        return status in _PASSING or is_expired_address(error)
    return isinstance(error, _FAILURES) and not isinstance(error, _LASTING)


def _wait(error: BaseException, attempt: int) -> float:
    wait = 2.0**attempt
    if isinstance(error, HfHubHTTPError):
        headers = error.response.headers
        limit = parse_ratelimit_headers(headers)
        if re.fullmatch("[0-9]+", asked := headers.get("Retry-After", "").strip()):
            wait = max(wait, float(asked) + 1)
        elif error.response.status_code == 429 and limit and limit.remaining == 0:
            wait = max(wait, limit.reset_in_seconds + 1.0)
    return min(wait, LONGEST_WAIT)
