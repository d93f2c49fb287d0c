"""What a release changes in a repository, and what of it the release must not touch."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.hf_api import RepoFile

from longattn_hf.hub.card_merge import (
    BEGIN,
    END,
    has_markers,
    merge_cards,
    own_configurations,
    read_configurations,
)
from longattn_hf.hub.layout import CARD
from longattn_hf.hub.loadable import check_card
from longattn_hf.hub.patterns import file_patterns, matches
from longattn_hf.hub.release import Release
from longattn_hf.hub.repository import Repository, differing, list_some

logger = logging.getLogger(__name__)

# what datasets loads by itself where a card names no configurations
_DATA = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".txt", ".zip", ".tar")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A release beside one commit of a repository.

    Args:
        repo_id: The repository.
        release: What is to be there.
        head: The commit.
        there: Its files, by path.
        theirs: Its card; None where it has none.
        card: That card with the release's part in it.
        before: The configurations of its card, by name.
    """

    repo_id: str
    release: Release
    head: str
    there: Mapping[str, RepoFile]
    theirs: str | None
    card: str
    before: Mapping[str, dict[str, Any]]

    @classmethod
    def make(cls, repository: Repository, release: Release, revision: str) -> "Plan":
        """Reads what a revision holds.

        Raises:
            ValueError: Its card is not UTF-8, or cannot be merged.
        """
        head = repository.head(revision)
        there = repository.files(head)
        theirs = _decode(repository.read(CARD, head)) if CARD in there else None
        return cls(
            repo_id=repository.repo_id,
            release=release,
            head=head,
            there=there,
            theirs=theirs,
            card=merge_cards(theirs, release.card),
            before=read_configurations(theirs or ""),
        )

    def operations(self) -> list[CommitOperationAdd | CommitOperationDelete]:
        """What makes the commit's contents the release; nothing where they are.

        Operations are made anew each time: a client that has seen one file unchanged leaves it out of later commits,
        even where somebody has deleted it since.
        """
        additions = [
            CommitOperationAdd(path, self.release.files[path].path)
            for path in differing(self.release.files, self.there)
        ]
        if self.card != self.theirs:
            additions.append(CommitOperationAdd(CARD, self.card.encode()))
        return [*additions, *map(CommitOperationDelete, self._stale())]

    def check(self) -> None:
        """Refuses what would harm others, and warns of what nobody would load any more.

        Raises:
            ValueError: `datasets` could not read the merged card; files or configurations of others would be replaced
                or deleted; or another configuration uses shards that the release would delete, would take the
                release's files for its own, or would have them read in another format.
        """
        check_card(self.card, "the README.md on the Hub with this release's part in it")
        self._check_replaced()
        self._warn_of_unnamed_data()
        new: list[str] = sum(self.release.patterns.values(), [])
        for name, patterns in self._foreign().items():
            if shared := [path for path in self._old_shards() if matches(path, new) and matches(path, patterns)]:
                raise ValueError(
                    f"{self.repo_id} uses {shared[0]} for a configuration that is not of this release: move it"
                )
            if taken := [path for path in self.release.files if matches(path, patterns)]:
                raise ValueError(
                    f"the configuration {name!r} of {self.repo_id} ({', '.join(patterns[:3])}) would take this "
                    f"release's {taken[0]} for its own: have the README.md there name its files alone, or publish "
                    "elsewhere"
                )
            files = [path for path in self.there if matches(path, patterns)]
            if name == next(iter(self.before)) and files and not any(path.endswith(".parquet") for path in files):
                raise ValueError(
                    f"the configuration {name!r} of {self.repo_id} stands first and is no Parquet ({files[0]}): "
                    "datasets reads all configurations in the first one's format, and nobody could load this release. "
                    "Convert it, or publish elsewhere"
                )

    def _check_replaced(self) -> None:
        marked, own = has_markers(self.theirs or ""), self._own()
        lost = [f"configuration {name!r}" for name in self.before if name in self.release.patterns and name not in own]
        if not marked:
            lost += [path for path in differing(self.release.files, self.there) if path in self.there]
            lost += self._stale()
        if lost:
            markers = "" if marked else f" (or, of an earlier release, put {BEGIN} and {END} into the README.md)"
            raise ValueError(
                f"{self.repo_id} holds what no release has put there and this one would replace or delete: "
                f"{list_some(lost)}. Publish in another repository, or move and rename what is there{markers}"
            )

    def _own(self) -> set[str]:
        """The configurations that this release may replace: those of an earlier one, and any of the same files."""
        same = {name for name, entry in self.before.items() if file_patterns(entry) == self.release.patterns.get(name)}
        return same | own_configurations(self.theirs or "", self.before)

    def _foreign(self) -> dict[str, list[str]]:
        """The patterns of the configurations that are not of this release, by name."""
        return {name: file_patterns(entry) for name, entry in self.before.items() if name not in self.release.patterns}

    def _old_shards(self) -> list[str]:
        return [path for path in self.there if path.endswith(".parquet") and path not in self.release.files]

    def _stale(self) -> list[str]:
        """Shards of an earlier release of our configurations: no reader must get rows of both."""
        ours: list[str] = sum(self.release.patterns.values(), [])
        for name in self.release.patterns.keys() & self._own():
            ours = ours + file_patterns(self.before[name])
        foreign: list[str] = sum(self._foreign().values(), [])
        return [path for path in self._old_shards() if matches(path, ours) and not matches(path, foreign)]

    def _warn_of_unnamed_data(self) -> None:
        new: list[str] = sum(self.release.patterns.values(), [])
        beside = [path for path in self.there if path.endswith(_DATA) and path not in self.release.files]
        if beside and not self.before and not all(matches(path, new) for path in beside):
            logger.warning(
                "%s holds files that datasets loads today, as the card names no configurations (%s): beside this "
                "release's they are loaded by data_files alone, or by a configuration that you add to the card",
                self.repo_id,
                ", ".join(beside[:3]),
            )


def _decode(card: bytes) -> str:
    try:
        return card.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the README.md on the Hub is not UTF-8 ({error}): correct it by hand") from error
