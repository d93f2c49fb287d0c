"""The layout of a build's output folder, and whose it is."""

import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from longattn_hf.files import move_file, write_json, write_text
from longattn_hf.hub.card_merge import merge_cards
from longattn_hf.hub.release import CARD, DATA, FIGURES, PAGE, REPORT, SCORES, STATISTICS

logger = logging.getLogger(__name__)

# no data of either selection can be loaded by it
_BEING_REPLACED = """---
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
        selection: What is kept, and the files that it goes to; there while those are being written.
        staging: The finished dataset before it is put in place.
        settings: The settings that the shards are made with.
        sources: The commits of the sources on a Hub.
        heartbeats: A sign of life of each process.
        finished: Names the build that the folder holds, when it is whole, and each of its files.
        placing: Names the files that may be there while one selection takes the place of another.
        lock: Held by the first process of the build at work.
        owner: Which process that is.
        card_before: The card that the folder had before its first build.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.card, self.report, self.page = (self.path / name for name in (CARD, REPORT, PAGE))
        self.statistics = self.path / STATISTICS
        self.figures, self.data, self.published_scores = (self.path / name for name in (FIGURES, DATA, SCORES))
        self.work = self.path / "work"
        self.windows, self.scores = self.work / "windows", self.work / "scores"
        self.shards, self.selection = self.work / "shards.parquet", self.work / "selection.parquet"
        self.staging = self.work / "staging"
        self.settings, self.sources = self.work / "settings.json", self.work / "sources.json"
        self.heartbeats, self.finished = self.work / "processes", self.work / "finished.json"
        self.placing, self.lock = self.work / "placing.json", self.work / ".lock"
        self.owner, self.card_before = self.work / "owner.json", self.work / "card-before.md"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keeps the folder to one build at a time; a process that dies lets go of it.

        Raises:
            ValueError: It holds files that no build has put there, or another build is at work in it.
            OSError: It cannot be written to.
        """
        self._refuse_foreign()
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.lock)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"{self.path} is being built by {self._name_owner()}: wait until it has ended, or end it; then the "
                "same command goes on."
            ) from error
        except NotImplementedError:
            logger.warning("The file system of %s knows no locks: start no two builds in it at once.", self.path)
        except OSError as error:
            raise OSError(
                error.errno, f"Cannot write to {self.path}: {error.strerror}; choose another output_dir"
            ) from error
        try:
            started = time.strftime("%Y-%m-%d %H:%M:%S %z")
            write_json(self.owner, {"host": socket.gethostname(), "pid": os.getpid(), "started": started})
            yield
        finally:
            self.owner.unlink(missing_ok=True)
            lock.release()

    def _name_owner(self) -> str:
        owner = _read_json(self.owner)
        known = f"process {owner.get('pid')} on {owner.get('host')}, started {owner.get('started')}"
        return known if owner else "another process"

    def _refuse_foreign(self) -> None:
        """Checks that the folder is empty or a build's."""
        if not self.path.is_dir() or self.settings.exists():
            return
        # what a build leaves that is killed before it has written its settings down
        own = {self.lock, self.owner, self.settings}
        inside = [path for path in self.work.iterdir() if path not in own] if self.work.is_dir() else []
        # a card that was there before, such as that of a new repository, is built upon
        entries = [path for path in self.path.iterdir() if path not in (self.work, self.card)] + inside
        foreign = sorted(path.name for path in entries if not path.name.startswith("."))
        if foreign:
            raise ValueError(
                f"{self.path} holds files that no build has put there ({', '.join(foreign[:3])}). A build writes into "
                "an empty folder or one of its own only: choose another output_dir."
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
        or_else = ", or pass --overwrite true to discard that build"
        try:
            claim(self.settings, settings, folder=self.path, or_else=or_else)
        except ValueError:
            if not overwrite:
                raise
            self._discard()
            claim(self.settings, settings, folder=self.path, or_else=or_else)

    def _discard(self) -> None:
        placed = self._placed()
        for name in placed:
            (self.path / name).unlink(missing_ok=True)
        self._remove_empty(placed)
        for path in self.work.iterdir():
            if path not in (self.lock, self.owner):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _placed(self) -> set[str]:
        """The files that builds have put beside `work/`, as their marks list them."""
        marks = [_read_json(path) for path in (self.finished, self.placing)]
        # `sizes` in folders of earlier versions
        return {name for mark in marks for key in ("files", "sizes") for name in mark.get(key, ())}

    def _remove_empty(self, names: set[str]) -> None:
        for folder in sorted({self.path / parent for name in names for parent in Path(name).parents}, reverse=True):
            if folder not in (self.path, self.path / ".") and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def is_finished(self, fingerprint: str) -> bool:
        """Says whether the folder holds this very build, byte for byte."""
        mark = _read_json(self.finished)
        try:
            return mark.get("fingerprint") == fingerprint and all(
                _hash_file(self.path / name) == digest for name, digest in mark["files"].items()
            )
        except (OSError, KeyError, AttributeError):
            return False

    def finish(self, fingerprint: str) -> None:
        """Puts the staged files in the place of an earlier selection's, and marks the end.

        A reader finds the old dataset or the new one whole, or a card that says that it is being replaced. A kill at
        any moment leaves a folder that the same command finishes.

        Raises:
            ValueError: A file is in the way that no build has put there.
            OSError: The folder is full or cannot be written to.
        """
        staged = {
            path.relative_to(self.staging).as_posix(): _hash_file(path)
            for path in sorted(self.staging.rglob("*"))
            if path.is_file()
        }
        placed = self._placed()
        if CARD not in placed and self.card.exists() and not self.card_before.exists():
            write_text(self.card_before, self.card.read_text(encoding="utf-8"))
        if self.card_before.exists():
            # people's own words stay, as they do in a card that is published
            theirs, ours = (path.read_text(encoding="utf-8") for path in (self.card_before, self.staging / CARD))
            write_text(self.staging / CARD, merge_cards(theirs, ours))
            staged[CARD] = _hash_file(self.staging / CARD)
        foreign = [name for name in staged if name not in (*placed, CARD) and (self.path / name).exists()]
        if foreign:
            raise ValueError(f"{self.path} holds {foreign[0]}, which no build has put there: move it away.")
        write_json(self.placing, {"files": sorted(placed | staged.keys())})
        self.finished.unlink(missing_ok=True)
        write_text(self.card, _BEING_REPLACED)
        for name in placed - staged.keys():
            (self.path / name).unlink(missing_ok=True)
        for name in sorted(staged, key=lambda name: name == CARD):
            move_file(self.staging / name, self.path / name)
        self._remove_empty(placed)
        write_json(self.finished, {"fingerprint": fingerprint, "files": staged})
        self.placing.unlink()
        shutil.rmtree(self.staging)
        self.selection.unlink(missing_ok=True)


def claim(record: Path, settings: Mapping[str, Any], *, folder: Path, or_else: str = "") -> None:
    """Writes settings down, or checks that they are those written down before.

    Args:
        record: The JSON file that keeps them.
        settings: Plain values.
        folder: What is claimed, for messages.
        or_else: What else to do than to choose another folder, likewise.

    Raises:
        ValueError: Other settings are written down.
        OSError: The folder cannot be written to.
    """
    settings = json.loads(json.dumps(settings))
    if not record.exists():
        write_json(record, settings)
        return
    before = _read_json(record)
    if not before:
        raise ValueError(
            f"{record} is damaged, so it cannot be said what it is of. Choose another output_dir{or_else}."
        )
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        changes = "; ".join(f"{name} was {before.get(name)!r} and is now {settings[name]!r}" for name in changed)
        raise ValueError(f"{folder} holds work with other settings: {changes}. Choose another output_dir{or_else}.")


def _read_json(path: Path) -> dict[str, Any]:
    """Reads a mark; one that is missing or damaged says nothing."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
