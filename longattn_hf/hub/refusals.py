"""Why a Hub refused, and what to do about it, in one line."""

import re

from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

try:
    # whichever library this release of huggingface_hub speaks through
    from huggingface_hub.utils import httpx
except ImportError:
    # releases before 1.31 do not say
    import httpx  # type: ignore[no-redef]

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_CHECK_SERVER = "check the name, HF_ENDPOINT and any proxy in between"
_FULL = "the storage quota or the plan's limit is reached: free space, enlarge the plan, or publish publicly"
_BY_TYPE = {
    LocalEntryNotFoundError: f"a file could not be read: {_CHECK_SERVER}, try again later",
    OfflineModeIsEnabled: "HF_HUB_OFFLINE is set: unset it where there is a network",
    GatedRepoError: f"the repository is gated: ask for access on its page, then {_LOG_IN}",
    DisabledRepoError: "the Hub has disabled access to the repository: its page says why",
    RevisionNotFoundError: "there is no such branch, tag or commit (any more): check `revision`",
    EntryNotFoundError: "the repository has no such file",
    RepositoryNotFoundError: (
        f"there is no such repository, or it is private and the token may not see it: check the name, and {_LOG_IN}"
    ),
    httpx.TimeoutException: "the server did not answer in time: check the network, try again later",
    httpx.TooManyRedirects: f"the server's redirects have no end: {_CHECK_SERVER}",
    httpx.UnsupportedProtocol: f"an address is not one of the web: {_CHECK_SERVER}",
}
_BY_STATUS = {
    401: f"the Hub does not accept the token: {_LOG_IN} to a valid one",
    402: _FULL,
    404: f"the server has no such address: {_CHECK_SERVER}",
    408: "the server waited too long: check the network, try again later",
    409: "somebody else changes the repository at the same time, or the name is taken: try again later",
    410: "it is not there any more: check the name and `revision`",
    412: "somebody else pushed in between: try again when they are through",
    413: "that is too much for one request: publish fewer or smaller files",
    422: "the Hub does not accept what is sent, such as the card's metadata: correct it as the Hub's words say",
    429: "too many requests: wait for the rate limit to pass",
}
# what the Hub and storages say where it is about space, not about permission
_QUOTA = re.compile(r"quota|storage limit|limit (?:reached|exceeded)|exceed\w* (?:your|the)|billing|payment", re.I)
_EXPIRED = re.compile(r"expired", re.I)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error tells of; None where there was no answer, or another trouble."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code
    # hf_xet has a ConnectionError for every refusal of its storage
    found = re.search(r"HTTP status \w+ error \((\d{3})\b", str(error)) if isinstance(error, ConnectionError) else None
    return int(found[1]) if found else None


def is_expired_address(error: BaseException) -> bool:
    """Whether a storage refuses a signed address for its age: another attempt gets a new one."""
    return status_of(error) in (400, 401, 403) and _is_of_storage(error) and bool(_EXPIRED.search(_words(error)))


def refusal(error: BaseException, what: str) -> ValueError:
    """Says what to do about a refusal of the Hub that another attempt will not change."""
    return ValueError(f"{what} is not possible: {remedy(error)} ({describe(error)})")


def remedy(error: BaseException) -> str:
    """The reason of a failure in words, and what to do about it."""
    for kind, text in _BY_TYPE.items():
        if isinstance(error, kind):
            return text
    status = status_of(error)
    if status in (400, 403, 413, 422) and _QUOTA.search(_words(error)):
        return (
            f"the storage quota is reached: free space, {_BY_STATUS[402].partition(', or ')[2]}, or publish publicly"
        )
    if status in (401, 403) and _is_of_storage(error):
        return (
            "the storage refuses the upload: its address has expired or a proxy changed it, or the token lost its "
            "write permission: the same call asks for a new address"
        )
    if status == 403:
        if isinstance(error, HfHubHTTPError) and error.response.request.method in ("GET", "HEAD"):
            return f"the token may not do this: reading needs read permission on this repository: {_LOG_IN} to one"
        return "the token may not do this: it needs write permission on this repository or its owner's namespace"
    if status is None:
        if isinstance(error, httpx.RequestError | ConnectionError):
            return f"the connection failed: {_CHECK_SERVER}, try again later"
        if isinstance(error, ValueError | RuntimeError):
            return "the Hub's client refuses it, as it says"
        return f"the server does not answer as a Hub does: {_CHECK_SERVER}"
    return _BY_STATUS.get(
        status, "the Hub has a fault: try again later" if status >= 500 else "the Hub refused the request"
    )


def describe(error: BaseException) -> str:
    """One line about an error, without the query of an address: signed upload addresses carry credentials there."""
    text = f" {error}"
    if isinstance(error, HfHubHTTPError):
        text = f" {error.response.status_code} {error.server_message or ''}"
    return re.sub(r"\?[^\s'\"]+", "?...", f"{type(error).__name__}: {' '.join(text.split())[:300]}")


def _words(error: BaseException) -> str:
    return f"{error.server_message or ''}" if isinstance(error, HfHubHTTPError) else str(error)


def _is_of_storage(error: BaseException) -> bool:
    """Whether a storage refuses, by a signed address or by Xet's token, and not the Hub itself."""
    if isinstance(error, HfHubHTTPError):
        return error.response.request.method == "PUT"
    return isinstance(error, ConnectionError) and "-token/" not in str(error)
