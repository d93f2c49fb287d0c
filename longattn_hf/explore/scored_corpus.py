"""All windows of a scored corpus to look at: numbers in memory, texts left in their files until one is opened.

Reads the output folder of a finished or still running build, or a published dataset. Selecting is done by
`longattn_hf.selection.cut` itself, on a table prepared so that a million windows take about a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from longattn_hf.baselines.by_name import SCORERS, ranking_column
from longattn_hf.columns import CATEGORY, DOC_ID, ID, KEPT, LONG_DISTANCE_SCORE, SELECTION_SCORE, SOURCE
from longattn_hf.explore.score_files import STRINGS, ScoreFiles, open_folder, put_in_order
from longattn_hf.explore.texts import RowFiles, TextSearch, WindowTexts
from longattn_hf.files import parse_record
from longattn_hf.pipeline.choice import ScorerChoice
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.recipe import write_recipe
from longattn_hf.pipeline.scored_with import find_convention, notes_in, scored_with
from longattn_hf.pipeline.so_far import ScoresSoFar
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import LONGATTN_SCORES
from longattn_hf.selection.cut import Selection, keep_with_cautions
from longattn_hf.selection.standardisation import RAW_SCORES, ScoreStatistics

#: What stands in the place of a category for all of them together, unless one is called so.
ALL = "all categories"


@dataclass(frozen=True)
class Selected:
    """What a selection makes of the windows.

    Attributes:
        scores: Those that rank, float64 `[N]`, NaN where there is none.
        kept: Bool `[N]`.
        cautions: What to know of it, in sentences.
    """

    scores: np.ndarray
    kept: np.ndarray
    cautions: Sequence[str] = ()


class ScoredCorpus:
    """The windows of a scored corpus, in the order of their ids.

    Attributes:
        name: What to call it.
        so_far: What a build has so far that has not ended; None where all windows are there.
        report: The build's report; None where there is none.
        settings: The build's settings, as far as they are known.
        scores: The columns that windows can be ranked by, the build's own first.
        statistics: The scale of LongAttn's score; that of the windows themselves if None.
        table: The columns that selection reads. The ids in it are ranks, which order as the ids do; `id_of` has them.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        statistics: str | Path | None = None,
        convention: str | None = None,
    ) -> None:
        """Reads the numbers of all windows.

        Args:
            folder: A build's output folder or a folder of Parquet files with score columns, here or in a store, such
                a file, here, or a dataset's Hub id.
            revision: The dataset's branch, tag or commit.
            token: For private datasets.
            statistics: The `statistics.json` on whose scale the build put its scores, where it was another build's.
            convention: How to read LongAttn's scores in files that no build wrote; as they say, else as the paper, if
                None.

        Raises:
            ValueError: There are no scored windows, `statistics` is needed, or the build was of another convention.
        """
        self._files, root = open_folder(folder, revision, token)
        self._folder = BuildFolder(root)
        self.name = str(folder).rstrip("/").split("/")[-1] if Path(folder).exists() else str(folder)
        report = self._read(self._folder.report)
        self.report = Report.from_json(report) if report else None
        # files that no build wrote may have the scores of any scorer
        others = self.report.scores if self.report else [ranking_column(name) for name in SCORERS]
        others = [name for name in others if name not in LONGATTN_SCORES]
        found = ScoreFiles.read(self._files, self._folder, others)
        self._paths, tables, self.so_far = found.paths, found.tables, found.so_far
        if not sum(len(table) for table in tables):
            raise ValueError(f"{folder} holds no scored windows yet: none of its Parquet files has rows with scores.")
        whole = pa.concat_tables(tables, promote_options="permissive")
        for name in STRINGS:
            if name not in whole.column_names:
                whole = whole.append_column(
                    name, pa.array(["all" if name == CATEGORY else None] * len(whole), pa.string())
                )
        ids = whole[ID].to_numpy(zero_copy_only=False).astype(str)
        # ranks of seven digits sort and convert several times faster than ids
        order = np.argsort(ids, kind="stable")
        self._ids, self._place_of_row = ids[order], order
        self._starts = np.cumsum([0, *(len(table) for table in tables)])
        self.published_kept = (
            whole[KEPT].to_numpy(zero_copy_only=False).astype(bool)[order] if KEPT in whole.column_names else None
        )
        # the report names things for readers, the other two as a build reads them
        self.settings = {"convention": self.report.convention} | self.report.settings if self.report else {}
        self.settings |= (self.report.recipe or {}) if self.report else {}
        settings = self._folder.settings
        self.settings |= parse_record(self._read(settings) or b"", settings.name)
        self.settings |= self.so_far.settings if self.so_far else {}
        self.table = put_in_order(whole, order)
        self._codes: dict[str, tuple[np.ndarray, list[str]]] = {}
        if (scale := self.settings.get("statistics")) and statistics is None:
            raise ValueError(
                f"The scores of {folder} stand on the scale of another build's {scale}: name it (statistics)."
            )
        self.settings["statistics"] = str(statistics) if statistics else None
        self.statistics = ScoreStatistics.load(statistics) if statistics else None
        if convention not in (None, known := self.settings.get("convention", convention)):
            raise ValueError(
                f"The windows of {folder} were scored as {known!r}, and convention={convention} is for files that do "
                "not say; the page compares with it as 'Other selection'."
            )
        longattn = [LONG_DISTANCE_SCORE] if {*RAW_SCORES} <= {*whole.column_names} else []
        if longattn and "convention" not in self.settings:
            # files that no build wrote say for themselves what they were scored with
            told = {
                path: scored_with(path, notes_in(table.schema))
                for path, table in zip(self._paths, tables, strict=True)
                if len(table)
            }
            convention = find_convention(told, convention, self.statistics)
            self.settings |= next(iter(told.values())) | {"convention": convention}
        first = [self.report.ranked_by] if self.report else []
        if self.so_far:
            first, others = self._rank_so_far(self.so_far)
        there = [name for name in others if name in self.table.column_names]
        self.scores = list(dict.fromkeys((*first, *longattn, *there)))

    def _rank_so_far(self, so_far: ScoresSoFar) -> tuple[list[str], list[str]]:
        """Returns the column that ranks the windows of a build that goes on, made if it is a sum, and all others."""
        first, *others = map(ranking_column, so_far.scorers)
        if so_far.settings and (choice := ScorerChoice.of_settings(self.settings)).is_sum:
            names = ("alpha", "convention", "combine")
            how = {name: self.settings[name] for name in names} | {"score": choice.columns["score"]}
            added = Selection(**how, fraction=1.0, statistics=self.statistics).add_scores(self.table)
            self.table = self.table.append_column(SELECTION_SCORE, added[SELECTION_SCORE])
            first, others = SELECTION_SCORE, [first, *others]
        # a scorer that does not decide may have none of these windows; LongAttn's score is made of what there is
        return [first], [name for name in others if name in self.table.column_names]

    @property
    def running(self) -> bool:
        """Whether it is a build that has not ended, so that windows are still to come."""
        return self.so_far is not None

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def convention(self) -> str:
        """The convention that the windows were scored in."""
        return self.settings.get("convention", "paper")

    @cached_property
    def categories(self) -> list[str]:
        """The categories, in the order of their names."""
        return sorted(self.table[CATEGORY].chunk(0).dictionary.to_pylist())

    @cached_property
    def lists(self) -> list[str]:
        """What may be listed: the windows of each category, and of several those of `ALL` together."""
        return self.categories + [ALL] * (len(self.categories) > 1 and ALL not in self.categories)

    def categories_in(self, category: str) -> list[str]:
        """Returns a category, or those of `ALL`."""
        return [category] if category in self.categories else self.categories

    def codes(self, column: str) -> tuple[np.ndarray, list[str]]:
        """Returns a text column as int `[N]` codes (-1 for null) and the texts that they stand for."""
        if column not in self._codes:
            encoded = self.table[column].chunk(0)
            self._codes[column] = encoded.indices.fill_null(-1).to_numpy(), encoded.dictionary.to_pylist()
        return self._codes[column]

    def rows_of(self, category: str) -> np.ndarray:
        """Returns the rows of a category, or of `ALL`."""
        codes, names = self.codes(CATEGORY)
        return np.flatnonzero(np.isin(codes, [names.index(name) for name in self.categories_in(category)]))

    def category_of(self, row: int) -> str:
        """Returns a window's category."""
        return self.table[CATEGORY][row].as_py()

    def by_rank(self, category: str, scores: np.ndarray) -> np.ndarray:
        """Returns the rows of a category, or of `ALL`, that have a score, the highest first, ties by their ids."""
        rows = self.rows_of(category)
        rows = rows[~np.isnan(scores[rows])]
        return rows[np.argsort(-scores[rows], kind="stable")]

    @property
    def ids(self) -> np.ndarray:
        """The ids of all windows, str `[N]`."""
        return self._ids

    def id_of(self, row: int) -> str:
        """Returns a window's id."""
        return str(self._ids[row])

    def name_of(self, row: int) -> str:
        """Returns what `row_of` finds just this window by: its id, and of the second of equal ids `#2` behind it."""
        name, number = self.id_of(row), row - int(np.searchsorted(self._ids, self._ids[row])) + 1
        return name if number == 1 and self.row_of(name) == row else f"{name}#{number}"

    def row_of(self, name: str) -> int:
        """Returns the row of a window.

        Args:
            name: Its id, which is that of the first of several; or as `name_of` has it.

        Raises:
            ValueError: There is none.
        """
        window_id, _, number = name.rpartition("#")
        if number.isdecimal() and int(number) and len(rows := self._rows_with(window_id)) >= int(number):
            return rows[int(number) - 1]
        if not (rows := self._rows_with(name)):
            raise ValueError(f"There is no window {name!r}.")
        return rows[0]

    def _rows_with(self, window_id: str) -> range:
        return range(*(int(np.searchsorted(self._ids, window_id, side=side)) for side in ("left", "right")))

    def select(self, selection: Selection) -> Selected:
        """Scores and selects all windows, as `add_long_distance_score` and `select_windows` do.

        Scores stand on the scale of the corpus, whatever `selection.statistics` says.

        Raises:
            ValueError: As these.
        """
        selection = replace(selection, statistics=self.statistics)
        table = selection.add_scores(self.table)
        return Selected(table[selection.ranked_by].to_numpy(), *keep_with_cautions(table, selection))

    def recipe(self, selection: Selection) -> str:
        """Returns the YAML that selects the same; see `write_recipe`."""
        return write_recipe(self.name, len(self), self.settings, self.report, selection)

    def search(self, words: str) -> np.ndarray:
        """Marks the windows whose id, document or source holds `words`, whatever the case; bool `[N]`."""
        words = words.strip().lower()
        if not words:
            return np.ones(len(self), dtype=bool)
        matching = np.char.find(np.char.lower(self._ids), words) >= 0
        for column in (DOC_ID, SOURCE):
            codes, texts = self.codes(column)
            holds = np.array([words in str(text).lower() for text in texts] + [False])
            matching |= holds[codes]
        return matching

    def read_window(self, row: int) -> dict[str, Any]:
        """Reads one window with its text, and its token ids where they were kept.

        Raises:
            OSError: Its file is damaged.
            ValueError: Its text is not there: a published dataset holds that of kept windows only.
        """
        return self.texts.read(row, self.category_of(row))

    @cached_property
    def texts(self) -> WindowTexts:
        """The windows' texts."""
        # the rows in the order of their files
        rows = np.empty(len(self), dtype=np.int64)
        rows[self._place_of_row] = np.arange(len(self))
        codes, names = self.codes(CATEGORY)
        kept = {}
        if self.published_kept is not None:
            taken = rows[self.published_kept[rows]]
            kept = {name: taken[codes[taken] == code] for code, name in enumerate(names)}
        scores = RowFiles(self._paths, self._starts, rows)
        return WindowTexts(self._files, self._folder, scores, self._ids, running=self.running, kept=kept)

    def search_texts(self, words: str, category: str) -> TextSearch:
        """Begins a search through the texts of a category, or of `ALL`."""
        rows, among = self.rows_of(category), self.categories_in(category)
        return TextSearch(self.texts, words, category, among, rows, np.zeros(len(self), dtype=bool))

    def _read(self, path: Path) -> bytes | None:
        return self._files.cat_file(path.as_posix()) if self._files.exists(path.as_posix()) else None
