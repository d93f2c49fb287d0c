"""Whether something could be published, asked before the work for it begins."""

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from longattn_hf.hub.client import bounded_timeouts, persist, usable_token
from longattn_hf.hub.repository import check_visibility


def check_target(repo_id: str, *, revision: str | None, create_pr: bool, tag: str | None) -> None:
    """Checks, without a Hub, what `publish` is told of where to publish; raises ValueError."""
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"repo_id={repo_id!r} does not say whose it is: give 'owner/{repo_id}'")
    if create_pr and (tag or revision not in (None, "main")):
        raise ValueError("create_pr opens a pull request against main: publish without `tag` and `revision`")


def check_access(repo_id: str, *, private: bool | None) -> None:
    """Asks the Hub whether `publish` could begin: the token is one, and the repository new or as it is to be.

    Raises:
        ValueError: There is no token, the Hub does not accept it, or the repository is public where it must not be.
        ConnectionError: The Hub cannot be reached.
    """
    api = HfApi(token=usable_token(None))

    def ask() -> None:
        api.whoami()
        if api.repo_exists(repo_id, repo_type="dataset"):
            check_visibility(repo_id, api.repo_info(repo_id, repo_type="dataset").private, private)

    with bounded_timeouts(60.0):
        persist(ask, what=f"Publishing in {repo_id!r}", attempts=4, last_word="Try again later")
