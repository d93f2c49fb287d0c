"""The layout of a build's output folder, and whose it is."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longattn_hf.files import write_json
from longattn_hf.hub.release import CARD, DATA, FIGURES, PAGE, REPORT, SCORES, STATISTICS


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
        finished: Names the build that the folder holds, when it is whole.
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

    def claim(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Takes the folder for a build with these settings.

        Args:
            settings: All that windows and scores depend on.
            overwrite: Discard what another build left.

        Raises:
            ValueError: It holds a build with other settings, and `overwrite` is off.
            OSError: It cannot be written to.
        """
        try:
            if overwrite and self.path.exists():
                shutil.rmtree(self.path)
            claim(
                self.settings,
                settings,
                folder=self.path,
                or_else=", or pass --overwrite true to discard that build",
            )
        except OSError as error:
            raise OSError(
                error.errno, f"Cannot write to {self.path}: {error.strerror}; choose another output_dir"
            ) from error

    def is_finished(self, fingerprint: str) -> bool:
        """Says whether the folder holds this very build, every file at its full size."""
        try:
            mark = json.loads(self.finished.read_text(encoding="utf-8"))
            return mark["fingerprint"] == fingerprint and all(
                (self.path / name).stat().st_size == size for name, size in mark["sizes"].items()
            )
        except (OSError, ValueError, KeyError):
            return False

    def finish(self, fingerprint: str) -> None:
        """Moves the staged files and folders over those of an earlier selection, the card last, and marks the end.

        A dataset without its card is visibly unfinished, and the same command finishes it.
        """
        files = [path for path in self.staging.rglob("*") if path.is_file()]
        sizes = {path.relative_to(self.staging).as_posix(): path.stat().st_size for path in files}
        self.finished.unlink(missing_ok=True)
        self.card.unlink(missing_ok=True)
        for entry in sorted(self.staging.iterdir(), key=lambda path: (path.name == CARD, path.name)):
            target = self.path / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            entry.replace(target)
        self.staging.rmdir()
        self.selection.unlink(missing_ok=True)
        write_json(self.finished, {"fingerprint": fingerprint, "sizes": sizes})


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
    before = json.loads(record.read_text(encoding="utf-8"))
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        changes = "; ".join(f"{name} was {before.get(name)!r} and is now {settings[name]!r}" for name in changed)
        raise ValueError(f"{folder} holds work with other settings: {changes}. Choose another output_dir{or_else}.")
