"""The layout of a build's output folder, and whose it is."""

import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from longattn_hf.baselines.by_name import LONGATTN
from longattn_hf.files import claim, hash_file, move_file, read_record, target_of_leftover, write_record, write_text
from longattn_hf.hub.card_merge import merge_cards
from longattn_hf.hub.layout import CARD, DATA, FIGURES, FINISHED, PAGE, REPORT, SCORES, STATISTICS

logger = logging.getLogger(__name__)

#: Where a build notes the files that it is putting in place, and those that it takes away.
PLACING = "work/placing.json"
# the processes of a launcher that was killed take a moment to end, and an owner to say who it is
_SECONDS_TO_LET_GO = 5.0
_Each = Callable[[Sequence[Any]], Iterable[Any]]
#: The card of a dataset while a selection takes another's place: no data of either can be loaded by it.
BEING_REPLACED = """---
configs:
- config_name: being-replaced
  data_files: being-replaced/*.parquet
---
This dataset is being replaced. If no build is running, the command that was at work here finishes it.
"""


class BuildFolder:
    """An output folder: the finished dataset, and under `work/` the pieces that it is made from.

    Every path below the folder is one of its attributes. Nothing is read or written before a method is called, so a
    published dataset, which has no `work/`, has the same paths below its root.

    Attributes:
        path: The folder itself.
        card: `README.md`; like the next six, a part of the dataset.
        report: `report.json`.
        page: `report.html`.
        statistics: The scale of the scores.
        figures: The card's pictures.
        data: The kept windows, a folder for each category.
        published_scores: The scores of all windows, kept or not.
        work: All that follows; private, and of no use once the build is finished.
        windows: Shards of windows, by category.
        scores: Shards of their scores, under the same names.
        shards: The list of both.
        refinement: Which windows to score again; there while they are.
        selection: What is kept, and the files that it goes to; there while those are being written.
        staging: The finished dataset before it is put in place.
        settings: The settings that the shards are made with.
        sources: The commits of the sources on a Hub.
        heartbeats: A sign of life of each process.
        finished: Names the build that the folder holds, when it is whole, and each of its files.
        placing: Names the files of that build, and of the one before while one takes the place of the other.
        lock: Held by the first process of the build at work.
        owner: Which process that is.
        traces: What a build that has nothing more to do is known by.
        ranking: How the build at work scores and selects, for those who look on; see `so_far`.
        card_before: The card that the folder had before its first build.
    """

    #: What to do where it cannot be written to.
    elsewhere = "choose another output_dir"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.card, self.report, self.page = (self.path / name for name in (CARD, REPORT, PAGE))
        self.statistics = self.path / STATISTICS
        self.figures, self.data, self.published_scores = (self.path / name for name in (FIGURES, DATA, SCORES))
        self.work = self.path / "work"
        self.windows, self.scores = self.work / "windows", self.work / "scores"
        self.shards, self.selection = self.work / "shards.parquet", self.work / "selection.parquet"
        self.refinement, self.staging = self.work / "refinement.parquet", self.work / "staging"
        self.settings, self.sources = self.work / "settings.json", self.work / "sources.json"
        self.heartbeats, self.ranking = self.work / "processes", self.work / "ranking.json"
        self.placing, self.lock = self.path / PLACING, self.work / ".lock"
        self.owner, self.card_before = self.work / "owner.json", self.work / "card-before.json"
        self.traces, self.finished = self.work / "traces.json", self.path / FINISHED

    def __str__(self) -> str:
        return str(self.path)

    def scores_by(self, scorer: str) -> Path:
        """The shards of scores of one scorer, under the names of those of windows; LongAttn's are `scores`."""
        return self.scores if scorer == LONGATTN else self.work / f"scores-{scorer}"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keeps the folder to one build at a time; a process that dies lets go of it.

        Raises:
            ValueError: It holds files that no build has put there, another build is at work in it, or its name is
                not of this locale.
            OSError: It cannot be written to.
        """
        from filelock import FileLock, Timeout  # which programs that only look do without

        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"This locale cannot spell the output_dir {ascii(str(self.path))}: set PYTHONUTF8=1 in the "
                "environment, or choose a name of ASCII letters."
            ) from error
        self._refuse_foreign()
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.lock)
            lock.acquire(timeout=_SECONDS_TO_LET_GO)
        except Timeout as error:
            raise is_being_built(self, read_record(self.owner)) from error
        except NotImplementedError:
            logger.warning("The file system of %s knows no locks: start no two builds in it at once.", self.path)
        except OSError as error:
            raise OSError(error.errno, f"Cannot write to {self.path}: {error.strerror}; {self.elsewhere}") from error
        try:
            if self.owner.exists():
                logger.warning(
                    "%s was being built by %s, which was ended before it was through, by hand or for lack of memory. "
                    "What it finished is kept.",
                    self,
                    name_owner(read_record(self.owner)),
                )
            started = time.strftime("%Y-%m-%d %H:%M:%S %z")
            me = {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "token": token_hex(8)}
            write_record(self.owner, me)
            self._sweep()
            yield
            # of workers that died where others went on
            self._sweep()
        finally:
            self.owner.unlink(missing_ok=True)
            lock.release()

    def _sweep(self) -> None:
        """Removes what kills have left of files that builds were writing."""
        names = self._placed() | {CARD}
        targets = {self.path / name for name in names}
        for path in self.work.rglob(".*.tmp"):
            if target_of_leftover(path):
                path.unlink()
        for folder in {target.parent for target in targets}:
            for path in folder.glob(".*.tmp"):
                if target_of_leftover(path) in targets:
                    path.unlink()

    @property
    def progress(self) -> str:
        """How many shards are finished, in words."""
        windows, scores = (sum(1 for _ in folder.glob("*/[!.]*.parquet")) for folder in (self.windows, self.scores))
        return f"{windows} shards of windows and {scores} of scores are kept in {self.work}"

    def _refuse_foreign(self) -> None:
        """Checks that the folder is empty or a build's."""
        if self.path.is_dir():
            inside = self.work.iterdir() if self.work.is_dir() else ()
            names = [path.relative_to(self.path).as_posix() for path in (*self.path.iterdir(), *inside)]
            # looked for last: a build that began this moment writes its settings before anything else
            self.refuse_foreign(names, begun=self.settings.exists())

    def refuse_foreign(self, names: Iterable[str], *, begun: bool) -> None:
        """Checks that what lies in the folder is a build's; raises ValueError. `begun` says that it has settings."""
        # a card that was there before, such as that of a new repository, is built upon
        own = {path.relative_to(self.path).as_posix() for path in (self.work, self.card, self.owner)}
        foreign = sorted(name for name in names if name not in own and not Path(name).name.startswith("."))
        if foreign and not begun:
            raise ValueError(
                f"{self} holds files that no build has put there ({', '.join(foreign[:3])}). A build writes into an "
                "empty folder or one of its own only: choose another output_dir."
            )

    def claim(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Takes the folder for a build with these settings; call it inside `owned`.

        Args:
            settings: All that windows and scores depend on.
            overwrite: Where another build is there, remove what it made, and nothing else.

        Raises:
            ValueError: It holds a build with other settings, and `overwrite` is off.
            OSError: It cannot be written to.
        """
        damaged = self.settings.exists() and not read_record(self.settings)
        if damaged and not overwrite:
            raise ValueError(
                f"{self.settings} is damaged, so it cannot be said what it is of: pass --overwrite true to go on with "
                "these settings. Windows and scores that were made with them are kept."
            )
        if not damaged:
            try:
                or_else = ", or pass --overwrite true to discard that build"
                return claim(self.settings, settings, folder=self, or_else=or_else)
            except ValueError:
                if not overwrite:
                    raise
                self.discard()
        write_record(self.settings, settings)

    def discard(self) -> None:
        """Removes what builds have made here, all but the settings."""
        placed = self._placed()
        for name in placed:
            (self.path / name).unlink(missing_ok=True)
        self._remove_empty(placed)
        for path in self.work.iterdir():
            # a kill at any moment leaves settings that differ: the same command discards the rest
            if path not in (self.lock, self.owner, self.settings):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _placed(self) -> set[str]:
        """The files that builds have put beside `work/`, as their marks list them."""
        return {name for path in (self.finished, self.placing) for name in read_record(path).get("files", ())}

    def _remove_empty(self, names: set[str]) -> None:
        for folder in sorted({self.path / parent for name in names for parent in Path(name).parents}, reverse=True):
            if folder not in (self.path, self.path / ".") and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def is_finished(self, fingerprint: str, each: _Each = iter) -> bool:
        """Says whether the folder holds this very build, byte for byte; `each` hands its files out."""
        mark = read_record(self.finished)
        if mark.get("fingerprint") != fingerprint:
            return False
        try:
            return all(hash_file(self.path / name) == mark["files"][name] for name in each([*mark["files"]]))
        except OSError:
            return False

    def finish(self, fingerprint: str, each: _Each = iter) -> None:
        """Puts the staged files in the place of an earlier selection's, and marks the end.

        A reader finds the old dataset or the new one whole, or a card that says that it is being replaced. A kill at
        any moment leaves a folder that the same command finishes. `each` hands out the staged files to be read.

        Raises:
            ValueError: A file is in the way that no build has put there.
            OSError: The folder is full or cannot be written to.
        """
        files = [path for path in sorted(self.staging.rglob("*")) if path.is_file()]
        staged = {path.relative_to(self.staging).as_posix(): hash_file(path) for path in each(files)}
        placed = self._placed()
        if CARD not in placed and self.card.exists() and not self.card_before.exists():
            write_record(self.card_before, {"card": self.card.read_text(encoding="utf-8")})
        if self.card_before.exists():
            # people's own words stay, as they do in a card that is published
            if not (theirs := read_record(self.card_before)):
                raise ValueError(
                    f"{self.card_before} is damaged. It holds the card that {self} had before its first build: "
                    "delete it, and put the words that you miss into the new card."
                )
            ours = (self.staging / CARD).read_text(encoding="utf-8")
            write_text(self.staging / CARD, merge_cards(theirs["card"], ours))
            staged[CARD] = hash_file(self.staging / CARD)
        foreign = [
            name
            for name, digest in staged.items()
            if name not in (*placed, CARD) and (path := self.path / name).exists() and hash_file(path) != digest
        ]
        if foreign:
            raise ValueError(
                f"{self.path} holds {', '.join(foreign)}, which no build has put there, or of which no record is "
                "left: move these files away."
            )
        write_record(self.placing, {"files": sorted(placed | staged.keys())})
        self.finished.unlink(missing_ok=True)
        write_text(self.card, BEING_REPLACED)
        for name in placed - staged.keys():
            (self.path / name).unlink(missing_ok=True)
        for name in sorted(staged, key=lambda name: name == CARD):
            move_file(self.staging / name, self.path / name)
        self._remove_empty(placed)
        write_record(self.finished, {"fingerprint": fingerprint, "files": staged})
        # kept beside the other: if one is damaged, the folder still knows its files
        write_record(self.placing, {"files": sorted(staged)})
        shutil.rmtree(self.staging)
        self.selection.unlink(missing_ok=True)


def name_owner(owner: Mapping[str, Any]) -> str:
    """Says which process it was that wrote a record of itself."""
    known = f"process {owner.get('pid')} on {owner.get('host')}, started {owner.get('started')}"
    return known if owner else "another process"


def is_being_built(folder: object, owner: Mapping[str, Any]) -> ValueError:
    """Returns what a second build in a folder is refused by; `owner` is the first one's record of itself."""
    return ValueError(
        f"{folder} is being built by {name_owner(owner)}: wait until it has ended, or end it; then the same command "
        "goes on."
    )
