"""A repository on the Hub beside files on this disk: what it holds, one commit that changes it, and a look back."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha1, sha256
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub._commit_api import _fetch_upload_modes
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._runtime import is_xet_available

from longattn_hf.hub.client import persist, usable_token
from longattn_hf.hub.deadlines import allow, bounded_timeouts, run_within

logger = logging.getLogger(__name__)

#: Seconds for one request, and for all of them together, beside what a slow line needs for the bytes.
REQUEST_SECONDS, WHOLE_SECONDS = 300.0, 3600.0
#: Said where a publish did not come to its end.
AGAIN = "the same call goes on with what is missing"
# of these a repository may have its own before anything is pushed to it
_FURNITURE = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md")


@dataclass(frozen=True)
class LocalFile:
    """One file on disk: the sha256 of its bytes, their git blob id, their number, and its rows where it is Parquet."""

    path: Path
    sha256: str
    blob_id: str
    size: int
    num_rows: int = 0

    @classmethod
    def read(cls, path: Path, num_rows: int = 0) -> "LocalFile":
        """Hashes a file."""
        size = path.stat().st_size
        content, blob = sha256(), sha1(b"blob %d\0" % size)
        with open(path, "rb") as file:
            while block := file.read(2**20):
                content.update(block)
                blob.update(block)
        return cls(path, content.hexdigest(), blob.hexdigest(), size, num_rows)

    def is_same(self, remote: RepoFile | None) -> bool:
        """Whether a repository's file has these bytes; it may keep any file in its large storage, or in git."""
        if remote is None:
            return False
        return remote.lfs.sha256 == self.sha256 if remote.lfs else remote.blob_id == self.blob_id


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository, existing or to be; `kind` is "dataset", "model" or "space"."""

    api: HfApi
    repo_id: str
    kind: str

    def prepare(self, private: bool | None, *, space_sdk: str | None = None) -> None:
        """Makes the repository where there is none; one that exists must be private, or not, as is asked for."""
        try:
            info = self.api.repo_info(self.repo_id, repo_type=self.kind)
        except RepositoryNotFoundError:
            self.api.create_repo(
                self.repo_id, repo_type=self.kind, space_sdk=space_sdk, private=private, exist_ok=True
            )
            info = self.api.repo_info(self.repo_id, repo_type=self.kind)
        check_visibility(self.repo_id, info.private, private)

    def head(self, revision: str) -> str:
        """The commit that a revision names now."""
        return str(self.api.repo_info(self.repo_id, repo_type=self.kind, revision=revision).sha)

    def files(self, commit: str) -> dict[str, RepoFile]:
        """The files of a commit by path."""
        entries = self.api.list_repo_tree(self.repo_id, repo_type=self.kind, revision=commit, recursive=True)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def read(self, path: str, commit: str) -> bytes:
        """The bytes of one small file."""
        return Path(self.api.hf_hub_download(self.repo_id, path, repo_type=self.kind, revision=commit)).read_bytes()

    def commit(
        self,
        operations: Sequence[CommitOperationAdd | CommitOperationDelete],
        *,
        message: str,
        parent: str,
        revision: str = "main",
        create_pr: bool = False,
    ) -> CommitInfo:
        """Uploads files and makes one commit of them, if all of them will be in it.

        Raises:
            ValueError: The repository's .gitignore would leave files out of the commit.
        """
        additions = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
        # the client drops what the server ignores from the commit, without a word
        _fetch_upload_modes(
            additions,
            repo_type=self.kind,
            repo_id=self.repo_id,
            headers=self.api._build_hf_headers(),
            revision=quote(revision, safe=""),
            endpoint=self.api.endpoint,
            create_pr=create_pr,
        )
        if ignored := [addition.path_in_repo for addition in additions if addition._should_ignore]:
            self._refuse_ignored(ignored, parent)
        commit = partial(
            self.api.create_commit,
            self.repo_id,
            operations,
            commit_message=message,
            repo_type=self.kind,
            revision=revision,
            create_pr=create_pr,
            parent_commit=parent,
        )
        # hf_xet makes its own requests, which nobody can watch
        size = sum(addition.upload_info.size for addition in additions)
        return run_within(size, commit) if is_xet_available() else commit()

    def _refuse_ignored(self, ignored: Sequence[str], parent: str) -> None:
        rules = self.read(".gitignore", parent).decode(errors="replace").splitlines()
        by = [rule.strip() for rule in rules if _ignores(rule.strip(), ignored[0])]
        named = f"its line {by[-1]!r}" if by else "one of its lines"
        more = f" and {len(ignored) - 1} more files" if len(ignored) > 1 else ""
        raise ValueError(
            f"the .gitignore of {self.repo_id} keeps {ignored[0]}{more} out of every commit ({named}): change that "
            "file on the Hub, or publish elsewhere. Nothing was sent"
        )


def differing(files: Mapping[str, LocalFile], there: Mapping[str, RepoFile]) -> list[str]:
    """The paths at which a repository does not hold the bytes of these files."""
    return [path for path, file in files.items() if not file.is_same(there.get(path))]


def commit_folder(
    folder: Path,
    repo_id: str,
    *,
    message: str,
    mark: tuple[str, str],
    token: str | None = None,
    private: bool | None = None,
    attempts: int = 6,
    space_sdk: str | None = None,
) -> str:
    """Makes a folder's files those of a model repository, in one commit, and reads them back.

    No commit is made where they are there already. With `space_sdk`, such as `"gradio"`, the repository is a Space.

    Args:
        folder: The files.
        repo_id: The repository, "owner/name".
        message: The commit's title.
        mark: A file and a text in it, by which a repository is known as one of these; another one is left alone.
        token: A token with write permission; default: HF_TOKEN, or that of `hf auth login`.
        private: Whether a repository that is created is private; an existing one must agree.
        attempts: How often to try what may pass.
        space_sdk: Of a Space.

    Returns:
        The commit.

    Raises:
        ValueError: The Hub refuses: token, permission, name; or the repository holds something else, or a .gitignore
            that leaves files out, or is public where it should be private.
        ConnectionError: Every attempt failed, or the time is over.
        RuntimeError: What was read back differs from what was sent.
    """
    kind = "space" if space_sdk else "model"
    repository = Repository(api=HfApi(token=usable_token(token)), repo_id=repo_id, kind=kind)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): LocalFile.read(path) for path in paths}

    def commit() -> str:
        repository.prepare(private, space_sdk=space_sdk)
        head = repository.head("main")
        _refuse_other_contents(repository, head, mark)
        changed = differing(files, repository.files(head))
        additions = [CommitOperationAdd(path, files[path].path) for path in changed]
        return repository.commit(additions, message=message, parent=head).oid if additions else head

    size = sum(file.size for file in files.values())
    with bounded_timeouts(REQUEST_SECONDS, whole=allow(WHOLE_SECONDS, size)):
        last_word = f"Readers see what was there before, or all of this; {AGAIN}"
        made = persist(commit, what=f"publishing {repo_id}", attempts=attempts, last_word=last_word)
        landed = f"The files are on the Hub as commit {made}; {AGAIN}"
        what = f"reading back {repo_id}"
        wrong = persist(
            lambda: differing(files, repository.files(made)), what=what, attempts=attempts, last_word=landed
        )
    if wrong:
        raise RuntimeError(f"{repo_id} at commit {made} differs from what was sent: {', '.join(wrong)}")
    return made


def _refuse_other_contents(repository: Repository, head: str, mark: tuple[str, str]) -> None:
    file, text = mark
    there = repository.files(head)
    if file in there and text in repository.read(file, head).decode(errors="replace"):
        return
    if foreign := [path for path in there if path not in _FURNITURE and not path.startswith(".")]:
        raise ValueError(
            f"the {repository.kind} repository {repository.repo_id} holds something else ({list_some(foreign)}), "
            "which this would replace: give another name, or delete that repository first"
        )


def list_some(paths: Iterable[str]) -> str:
    """Names the first three, and how many more there are."""
    listed = sorted(paths)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _ignores(rule: str, path: str) -> bool:
    """Whether a line of a .gitignore can be the one that ignores a path; enough to point a person to it."""
    pattern = rule.strip("/")
    if not pattern or rule.startswith(("#", "!")):
        return False
    names = [PurePosixPath(path), *PurePosixPath(path).parents][:-1]
    if "/" in rule.rstrip("/"):
        return any(fnmatchcase(name.as_posix(), pattern.replace("**/", "*")) for name in names)
    return any(fnmatchcase(name.name, pattern) for name in names)


def check_visibility(repo_id: str, is_private: bool | None, wanted: bool | None) -> None:
    """Refuses with a ValueError a repository that is public, or private, where it is to be the other."""
    if wanted is not None and bool(is_private) != wanted:
        state = "private" if is_private else "public"
        raise ValueError(f"private={wanted} is given, but {repo_id} is {state}: change it on its page")
