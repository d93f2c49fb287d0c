"""The windows' texts, left in their files until one is opened, or until all are searched for some words."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from glob import escape
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from longattn_hf.columns import CATEGORY, ID, INPUT_IDS, SOURCE, TEXT
from longattn_hf.explore.score_files import with_ids
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.shards import ScoredShards

_ELSEWHERE = "The text of this window is not here: a published dataset holds that of kept windows only."
# texts that are searched between two looks at the clock
_AT_ONCE = 64


@dataclass(frozen=True)
class RowFiles:
    """Parquet files with a row for each of some windows: file i for those of `rows[starts[i]:starts[i + 1]]`."""

    paths: Sequence[str]
    starts: np.ndarray
    rows: np.ndarray

    def place(self, row: int) -> tuple[str, int] | None:
        """Returns the file of a window and its row in it; None where there is none."""
        found = np.flatnonzero(self.rows == row)
        if not len(found):
            return None
        file = int(np.searchsorted(self.starts, found[0], side="right")) - 1
        return self.paths[file], int(found[0] - self.starts[file])


class WindowTexts:
    """The texts of a scored corpus, wherever they stand.

    Args:
        files: Where the files are.
        folder: The build's.
        scores: The files of the scores.
        ids: The ids of all windows, by row.
        running: Whether the build goes on.
        kept: The rows that are published, in their order, by category.
    """

    def __init__(
        self,
        files: AbstractFileSystem,
        folder: BuildFolder,
        scores: RowFiles,
        ids: np.ndarray,
        *,
        running: bool,
        kept: Mapping[str, np.ndarray],
    ) -> None:
        self._files, self._folder, self._scores, self._ids = files, folder, scores, ids
        self._running, self._kept = running, kept
        self._published = lru_cache(maxsize=None)(self._find_published)

    def read(self, row: int, category: str) -> dict[str, Any]:
        """Reads one window's text, and its token ids, source and category where they were kept.

        Raises:
            OSError: Its file is damaged.
            ValueError: Its text is not there: a published dataset holds that of kept windows only.
        """
        return self._read(row, category, (ID, TEXT, INPUT_IDS, SOURCE, CATEGORY), {})

    def read_some(self, rows: Sequence[int], categories: Sequence[str]) -> list[str | None]:
        """Reads the texts of a few windows, each of a category; None where one is not there or its file is damaged."""
        texts: list[str | None] = []
        groups: dict[tuple[str, int], pa.Table] = {}
        for row, category in zip(rows, categories, strict=True):
            try:
                texts.append(self._read(row, category, (ID, TEXT), groups)[TEXT])
            except (OSError, ValueError):
                texts.append(None)
        return texts

    def _read(self, row: int, category: str, columns: Sequence[str], groups: dict) -> dict[str, Any]:
        for files in self._by_preference(category):
            place = files.place(row)
            window = self._read_row(*place, columns, groups) if place else {}
            # a file without ids has its rows' numbers in their place
            if window.get(ID, self._ids[row]) == self._ids[row] and window.get(TEXT) is not None:
                return window
        raise ValueError(_ELSEWHERE)

    def search(
        self, words: str, rows: np.ndarray, categories: Sequence[str]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields, some texts at a time, the rows that were read and those of them that hold `words`, in any case.

        A file that is missing or damaged is left out; so are texts that stand nowhere.

        Args:
            words: What to look for.
            rows: The windows to search.
            categories: Their categories.
        """
        left = np.zeros(len(self._ids), dtype=bool)
        left[rows] = True
        for files in self._by_preference(*categories):
            for path, start, end in zip(files.paths, files.starts[:-1], files.starts[1:], strict=True):
                if not left[files.rows[start:end]].any():
                    continue
                try:
                    for read, holds in self._search_file(path, files.rows[start:end], words, left):
                        left[read] = False
                        yield read, read[holds]
                except (OSError, pa.ArrowInvalid):
                    continue

    def _search_file(
        self, path: str, rows: np.ndarray, words: str, left: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if not self._files.exists(path):
            return
        parquet = open_parquet(self._files, path)
        names = [name for name in (ID, TEXT) if name in parquet.schema_arrow.names]
        if TEXT not in names:
            return
        start = 0
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            group_rows, start = rows[start : start + count], start + count
            if not left[group_rows].any():
                continue
            at = 0
            for batch in parquet.iter_batches(_AT_ONCE, row_groups=[group], columns=names):
                these, at = group_rows[at : at + len(batch)], at + len(batch)
                right = left[these]
                if ID in names:
                    ids = with_ids(pa.Table.from_batches([batch]))[ID]
                    right &= ids.to_numpy(zero_copy_only=False) == self._ids[these]
                right &= batch[TEXT].is_valid().to_numpy(zero_copy_only=False)
                holds = pc.match_substring(batch[TEXT].cast(pa.large_string()), words, ignore_case=True)
                yield these[right], holds.fill_null(False).to_numpy(zero_copy_only=False)[right]

    def _by_preference(self, *categories: str) -> Iterator[RowFiles]:
        if self._of_build:
            yield self._of_build
        yield self._scores
        for category in categories:
            if category in self._kept:
                yield self._published(category)

    @cached_property
    def _of_build(self) -> RowFiles | None:
        """The build's own windows, where they are still there."""
        if self._running:
            names = [Path(*Path(path).parts[-2:]) for path in self._scores.paths]
            starts = self._scores.starts
        elif self._folder.shards.exists():
            # the scores of a finished build stand in the order of its windows
            shards = ScoredShards.load(self._folder)
            names, starts = [Path(name) for name in shards.names], np.cumsum([0, *shards.rows])
        else:
            return None
        return RowFiles([(self._folder.windows / name).as_posix() for name in names], starts, self._scores.rows)

    def _find_published(self, category: str) -> RowFiles:
        # a folder's own name may hold brackets
        folder = escape((self._folder.data / category).as_posix())
        paths = sorted(self._files.glob(f"{folder}/*.parquet"))
        counts = [open_parquet(self._files, path).metadata.num_rows for path in paths]
        return RowFiles(paths, np.cumsum([0, *counts]), self._kept[category])

    def _read_row(self, path: str, at: int, names: Sequence[str], groups: dict) -> dict[str, Any]:
        """Reads a row of a file; `groups` holds the row groups read so far, since a page's windows often share one."""
        if not self._files.exists(path):
            return {}
        parquet = open_parquet(self._files, path)
        present = [name for name in names if name in parquet.schema_arrow.names]
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            if at < count:
                if (path, group) not in groups:
                    groups[path, group] = with_ids(parquet.read_row_group(group, present))
                return groups[path, group].slice(at, 1).to_pylist()[0]
            at -= count
        return {}


@dataclass
class TextSearch:
    """A search through texts that goes on where it stopped.

    Attributes:
        texts: Where the texts are.
        words: What is looked for.
        category: Whose texts; see `ScoredCorpus.lists`.
        among: Its categories.
        rows: The windows of these, those to search first in front.
        found: Of each window of the corpus, whether its text holds the words; bool.
        searched: How many were read.
        ended: Whether there are no more.
    """

    texts: WindowTexts
    words: str
    category: str
    among: Sequence[str]
    rows: np.ndarray
    found: np.ndarray
    searched: int = 0
    ended: bool = False
    _steps: Iterator[tuple[np.ndarray, np.ndarray]] | None = field(default=None, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False)

    def go_on(self, seconds: float) -> None:
        """Searches some more texts, for about so long."""
        with self._lock:
            self._steps = self._steps or self.texts.search(self.words, self.rows, self.among)
            end = time.monotonic() + seconds
            for read, holding in self._steps:
                self.searched += len(read)
                self.found[holding] = True
                if time.monotonic() >= end:
                    return
            self.ended = True

    def to_data(self) -> dict[str, Any]:
        """Returns the plain values that the page shows of it."""
        return {
            "words": self.words,
            "category": self.category,
            "searched": self.searched,
            "windows": len(self.rows),
            "found": int(self.found.sum()),
            "ended": self.ended,
        }


def open_parquet(files: AbstractFileSystem, path: str) -> pq.ParquetFile:
    """Opens a file, whose pages are checked when they are read."""
    return pq.ParquetFile(files.open(path, "rb"), page_checksum_verification=True)
