"""The only module that writes datasets to a Hub: a release goes up in one commit, and is read back."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi, HfFileSystem

from longattn_hf import __version__
from longattn_hf.hub.access import check_target
from longattn_hf.hub.client import persist, usable_token
from longattn_hf.hub.deadlines import allow, bounded_timeouts
from longattn_hf.hub.patterns import matches
from longattn_hf.hub.plan import Plan
from longattn_hf.hub.release import Configuration, Release
from longattn_hf.hub.repository import AGAIN, REQUEST_SECONDS, WHOLE_SECONDS, Repository, differing
from longattn_hf.hub.staging import stage_dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What `publish` did, or would do in a dry run (`commit` is None then); as text, a summary for people."""

    repo_id: str
    revision: str
    commit: str | None = None
    pull_request: int | None = None
    tag: str | None = None
    configurations: tuple[Configuration, ...]
    other_files: tuple[str, ...]
    card: str = field(repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for programs."""
        names = ("repo_id", "revision", "commit", "pull_request", "tag")
        return {name: getattr(self, name) for name in names} | {
            "rows": {configuration.name: configuration.num_rows for configuration in self.configurations},
        }

    def __str__(self) -> str:
        state = f"published as commit {self.commit}" if self.commit else "not published (dry run)"
        lines = [f"{self.repo_id}, {self.revision}: {state}" + (f", tag {self.tag}" if self.tag else "")]
        for configuration in self.configurations:
            lines += [f"  {configuration}", *(f"    {path}" for path in configuration.paths)]
        return "\n".join(lines + [f"  {path}" for path in self.other_files] + ["", self.card])


def publish(
    source: str | Path | Dataset | DatasetDict,
    repo_id: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    private: bool | None = None,
    tag: str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
    attempts: int = 6,
    timeout: float = REQUEST_SECONDS,
    deadline: float | None = None,
) -> Publication:
    """Publishes a dataset on the Hub in ONE commit: readers see all of it or what was there before.

    Shards are uploaded ahead of the commit, and those that are stored are not sent again: a publish that was stopped
    goes on when it is repeated, and one that changes nothing makes no commit. A concurrent push, a rate limit, a lost
    connection or a lost answer leads to another attempt from the files on disk. A card on the Hub keeps what people
    wrote (see `merge_cards`), and other configurations stay; files and configurations that no release of this package
    has put there are neither replaced nor deleted. In the end row counts and content hashes are read back.

    Args:
        source: The output folder of a build, or a dataset (one configuration a `category`, where it has them).
        repo_id: The repository, "owner/name"; it is created where it does not exist.
        token: A token with write permission; default: HF_TOKEN, or that of `hf auth login`.
        revision: The branch, created from `main` where it does not exist, or "refs/pr/N"; default: main.
        create_pr: Open a pull request instead of changing `main`. One that holds exactly this is found again.
        private: Whether a repository that is created is private; an existing one must agree.
        tag: Names this release; a tag that exists must name the same contents.
        commit_message: Default: says what is published, and with which version.
        dry_run: Only say what would be published. Needs no token and asks no Hub; shows the card before the merge.
        attempts: How often to try what may pass, at least 1.
        timeout: Seconds for each request, and as many more as a slow line (2 Mbit/s) needs for its bytes.
        deadline: Seconds for all requests together; default: an hour, and what a slow line needs for all bytes.

    Returns:
        The commit, and what it holds.

    Raises:
        ValueError: An argument, the files, the token, a permission or what is on the Hub must be changed.
        ConnectionError: All attempts failed, or the time is over; the same call goes on with what is missing.
        RuntimeError: What was read back differs from what was sent.
        OSError: The disk is full while shards are written.
    """
    check_target(repo_id, revision=revision, create_pr=create_pr, tag=tag)
    if not isinstance(source, str | Path | Dataset | DatasetDict):
        raise ValueError(f"source is a {type(source).__name__}: give an output folder, a Dataset or a DatasetDict")
    token = None if dry_run else usable_token(token)
    with TemporaryDirectory(prefix="longattn_hf-") as staging:
        if isinstance(source, Dataset | DatasetDict):
            stage_dataset(source, Path(staging))
            source = staging
        release = Release(Path(source), repo_id)
        commit = pull_request = None
        if token:
            release.check_free_of(token, str(Path(source).resolve()))
            branch = _Branch(
                repository=Repository(api=HfApi(token=token), repo_id=repo_id, kind="dataset"),
                release=release,
                revision=revision or "main",
                tag=tag,
                message=commit_message or f"Publish {release.summary} (longattn_hf {__version__})",
                create_pr=create_pr,
                private=private,
            )
            if deadline is None:
                deadline = allow(WHOLE_SECONDS, sum(file.size for file in release.files.values()))
            with bounded_timeouts(timeout, whole=deadline):
                commit, pull_request = branch.publish(attempts)
    described = {path for configuration in release.configurations for path in configuration.paths}
    return Publication(
        repo_id=repo_id,
        revision=revision or "main",
        commit=commit,
        pull_request=pull_request,
        tag=tag,
        configurations=release.configurations,
        other_files=tuple(path for path in release.files if path not in described),
        card=release.card,
    )


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """One branch of a repository as the place to publish a release. Every step may be repeated."""

    repository: Repository
    release: Release
    revision: str
    tag: str | None
    message: str
    create_pr: bool
    private: bool | None

    @property
    def api(self) -> HfApi:
        return self.repository.api

    @property
    def repo_id(self) -> str:
        return self.repository.repo_id

    def publish(self, attempts: int) -> tuple[str, int | None]:
        commit, pull_request = persist(
            self._commit,
            what=f"publishing {self.repo_id}",
            attempts=attempts,
            last_word=f"Readers of {self.revision} see what was there before, or all of this release; {AGAIN}",
        )
        landed = f"The release is on the Hub as commit {commit}; {AGAIN}"
        persist(lambda: self._verify(commit), what=f"reading back {self.repo_id}", attempts=attempts, last_word=landed)
        if self.tag:
            persist(lambda: self._name(commit), what=f"tagging {self.repo_id}", attempts=attempts, last_word=landed)
        return commit, pull_request

    def _commit(self) -> tuple[str, int | None]:
        """Makes the commit, unless it is there; returns it, and the pull request's number."""
        self._prepare()
        plan = self._plan(self.revision)
        plan.check()
        if not (operations := plan.operations()):
            logger.info("%s holds exactly this release already: no commit is made", self.repo_id)
            return plan.head, None
        for number in self._open_pull_requests() if self.create_pr else ():
            pull = self._plan(f"refs/pr/{number}")
            if not pull.operations():
                return pull.head, number
        info = self.repository.commit(
            operations, message=self.message, parent=plan.head, revision=self.revision, create_pr=self.create_pr
        )
        return info.oid, info.pr_num

    def _plan(self, revision: str) -> Plan:
        return Plan.make(self.repository, self.release, revision)

    def _prepare(self) -> None:
        """Makes the repository and the branch, and refuses what a commit would only find out at its end."""
        self.repository.prepare(self.private)
        if self.revision != "main" and not self.revision.startswith("refs/"):
            self.api.create_branch(self.repo_id, branch=self.revision, repo_type="dataset", exist_ok=True)
        self._tagged()

    def _tagged(self) -> str | None:
        """The commit that the tag names; None where there is no such tag."""
        refs = self.api.list_repo_refs(self.repo_id, repo_type="dataset").tags if self.tag else []
        commit = next((ref.target_commit for ref in refs if ref.name == self.tag), None)
        if commit and self._plan(commit).operations():
            raise ValueError(f"the tag {self.tag!r} names other contents (commit {commit}): a new release, a new name")
        return commit

    def _name(self, commit: str) -> None:
        if self.tag and self._tagged() is None:
            self.api.create_tag(self.repo_id, tag=self.tag, revision=commit, repo_type="dataset")

    def _verify(self, commit: str) -> None:
        """Reads names, content hashes and row counts back, and compares them with the files on disk."""
        there = self.repository.files(commit)
        wrong = differing(self.release.files, there)
        filesystem = HfFileSystem(token=self.api.token, skip_instance_cache=True)
        for configuration in self.release.configurations:
            seen = [path for path in sorted(there) if matches(path, self.release.patterns[configuration.name])]
            rows = 0
            for path in seen:
                with filesystem.open(f"datasets/{self.repo_id}@{commit}/{path}", block_size=2**16) as file:
                    try:
                        rows += pq.read_metadata(file).num_rows
                    except pa.ArrowInvalid:
                        wrong.append(f"{path} (no Parquet file)")
            sent = configuration.num_rows, len(configuration.paths)
            if (rows, len(seen)) != sent or set(seen) & set(wrong):
                wrong.append(
                    f"{configuration.name} ({rows} rows in {len(seen)} files; sent were {sent[0]} in {sent[1]})"
                )
        if wrong:
            raise RuntimeError(f"{self.repo_id} at commit {commit} differs from what was sent: {', '.join(wrong)}")

    def _open_pull_requests(self) -> Sequence[int]:
        """Those with our title: an attempt whose answer was lost may have opened one."""
        pulls = self.api.get_repo_discussions(
            self.repo_id, repo_type="dataset", discussion_type="pull_request", discussion_status="open"
        )
        return [pull.num for pull in pulls if pull.title == self.message]
