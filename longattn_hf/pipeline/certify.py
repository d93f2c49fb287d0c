"""A build's certified cut: all windows scored from sampled rows, and again those on which the cut hangs.

Each finer step has shards of its own, under the names of those of windows, with a row for each window that it scored.
The first process decides what a round scores, from what the rounds before have used and nothing else: a window that an
earlier run or another cut has scored is not scored again, and changes nothing before it is asked for. So a build ends
in the same bytes however often it was killed, and whatever was selected in between.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from longattn_hf.baselines.by_name import LONGATTN
from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH, ID, ROW_FRACTION
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.processes import ALONE, Process
from longattn_hf.pipeline.scoring import fingerprints_of, name_device, read_all_scores, score_some
from longattn_hf.pipeline.shards import ROWS_AT_ONCE, ScoredShards, read_facts, read_shard, write_shard
from longattn_hf.report.parts import CertificateFacts, StepFacts
from longattn_hf.scoring.base import Scorer
from longattn_hf.selection.certify import Certificate, certify
from longattn_hf.selection.steps import NEXT_FRACTION, join_steps, next_steps

_SHARD, _ROW, _STEP = "shard", "row", "step"


@dataclass(frozen=True)
class Certified:
    """All windows with their finest scores, and how sure the cut is by them.

    Attributes:
        table: The windows.
        certificate: How sure.
        scored: How many finer scores this run made, on all processes.
        reused: How many of those that were needed an earlier run had made.
    """

    table: pa.Table
    certificate: Certificate
    scored: int
    reused: int

    def describe(self, kept_rows: pa.ChunkedArray) -> dict[str, CertificateFacts]:
        """Returns, by category, from what windows were scored that are kept or not, and how sure that is."""
        kept = kept_rows.to_numpy()
        fraction, category = self.table[ROW_FRACTION].to_numpy(), np.array(self.table[CATEGORY])
        facts = {}
        for name, doubt in self.certificate.categories.items():
            here = category == name
            steps = [
                StepFacts(row_fraction=float(one), kept=int((mask & kept).sum()), dropped=int((mask & ~kept).sum()))
                for one in np.unique(fraction[~np.isnan(fraction)])
                if (mask := here & (fraction == one)).any()
            ]
            facts[name] = CertificateFacts(steps=steps, wrong=doubt.wrong, moved=doubt.moved)
        return facts


def certify_cut(
    config: BuildConfig, shards: ScoredShards, scorers: Mapping[str, Scorer], *, process: Process
) -> Certified | None:
    """Scores windows again until the cut is as sure as the settings ask for.

    Args:
        config: The settings.
        shards: The shards, which all `scorers` have scored.
        scorers: By name.
        process: This process.

    Returns:
        In the first process, what came of it.

    Raises:
        ValueError: As the scorers, or a shard is damaged.
        OSError: As `write_shard`.
    """
    refinement = _Refinement(config, shards, scorers)
    decided = None
    while True:
        if process.index == 0:
            decided = refinement.plan(process)
        process.wait()
        if not shards.folder.refinement.exists():
            return decided
        refinement.score(process)
        process.wait()


@dataclass(frozen=True)
class _Again:
    """A unit: rows of a shard of windows, in their order, that a finer scorer has to score."""

    scorer: str
    shard: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class _ScoringAgain:
    """One round as a stage; a unit is what one scorer has to score of one shard.

    Attributes:
        shards: The shards of windows.
        scorers: The finer scorers, by the names of the folders of their shards.
    """

    name: ClassVar[str] = "scores again"
    counted: ClassVar[str] = "windows"
    runs_models: ClassVar[bool] = True

    shards: ScoredShards
    scorers: Mapping[str, Scorer]

    @property
    def folder(self) -> BuildFolder:
        """The shards' own."""
        return self.shards.folder

    def made_with(self) -> dict[str, str]:
        """Names the scorers and the device."""
        return name_device(True) | fingerprints_of(self.scorers)

    def units(self, workers: int, share: slice) -> list[_Again]:
        """Lists a share of what the plan asks for."""
        plan, names = read_shard(self.folder.refinement), list(self.scorers)
        steps, shards, rows = (plan[name].to_pylist() for name in (_STEP, _SHARD, _ROW))
        groups = groupby(zip(steps, shards, rows, strict=True), key=lambda one: one[:2])
        units = [_Again(names[step], shard, tuple(one[2] for one in group)) for (step, shard), group in groups]
        return units[share]

    def size(self, unit: _Again) -> int:
        """The windows."""
        return len(unit.rows)

    def do(self, unit: _Again, tick: Callable[[int], object]) -> None:
        """Scores those that are not there yet."""
        scorer = self.scorers[unit.scorer]
        path = self.folder.scores_by(unit.scorer) / self.shards.names[unit.shard]
        fingerprint = self.shards.score_fingerprint(unit.shard, scorer.fingerprint)
        known = read_facts(path, fingerprint) is not None
        parts = [read_shard(path).replace_schema_metadata(None)] if known else []
        lacking = np.setdiff1d(unit.rows, parts[0][_ROW].to_numpy() if known else [])
        tick(len(unit.rows) - len(lacking))
        for start in range(0, len(lacking), ROWS_AT_ONCE):
            here = lacking[start : start + ROWS_AT_ONCE].astype(np.int64)
            windows = self.shards.read_windows(np.full(len(here), unit.shard), here)
            parts.append(score_some(windows, scorer, path).append_column(_ROW, pa.array(here)))
            tick(len(here))
        if len(lacking):
            whole = pa.concat_tables(parts, promote_options="default").sort_by(_ROW)
            write_shard(path, whole, fingerprint, {"adds": list(scorer.added_columns)})


class _Refinement:
    """The rounds of one build; `plan` is the first process's, `score` everybody's."""

    def __init__(self, config: BuildConfig, shards: ScoredShards, scorers: Mapping[str, Scorer]) -> None:
        self.config, self.shards, self.scorers = config, shards, scorers
        longattn: Any = scorers[LONGATTN]
        # by the names of the folders of their shards
        self.finer = {
            f"{LONGATTN}-quarter": (NEXT_FRACTION, replace(longattn, row_fraction=NEXT_FRACTION)),
            f"{LONGATTN}-exact": (1.0, replace(longattn, row_fraction=None)),
        }
        self.base: pa.Table | None = None
        self.asked = {name: np.zeros(int(shards.rows.sum()), dtype=bool) for name in self.finer}
        self.scored = 0

    def plan(self, process: Process = ALONE) -> Certified | None:
        """Goes on with what is scored already; writes down what to score next, or returns the end."""
        config, shards = self.config, self.shards
        shards.folder.refinement.unlink(missing_ok=True)
        if self.base is None:
            self.base = read_all_scores(config, shards, self.scorers, process=process)
        scored = {name: self._read(name) for name in self.finer}
        added = list(self.scorers[LONGATTN].added_columns)
        while True:
            steps = [(config.first_fraction or 1.0, self.base)]
            for name, (fraction, _) in self.finer.items():
                rows = pa.array(np.arange(len(self.base)), mask=~self.asked[name])
                steps.append((fraction, scored[name].take(rows)))
            table = join_steps(steps, added)
            certificate = certify(table, config.selection, confidence=config.confidence)
            if not len(certificate.undecided):
                reused = int(sum(asked.sum() for asked in self.asked.values())) - self.scored
                return Certified(table, certificate, scored=self.scored, reused=reused)
            fractions = next_steps(table, certificate.undecided, certificate.nearly)
            lacking = []
            for step, (name, (fraction, _)) in enumerate(self.finer.items()):
                rows = np.sort(certificate.undecided[fractions == fraction])
                self.asked[name][rows] = True
                there = scored[name][DEPENDENCY_STRENGTH].is_valid().to_numpy()
                lacking += [(step, row) for row in rows[~there[rows]]]
            if lacking:
                self.scored += len(lacking)
                step_of, rows = np.array(lacking, dtype=np.int64).T
                places = zip((_SHARD, _ROW), shards.locate(rows), strict=True)
                write_shard(shards.folder.refinement, pa.table({_STEP: step_of} | dict(places)), "")
                return None

    def score(self, process: Process) -> int:
        """Scores this process's share of what `plan` wrote down, and adds it to its shards."""
        return process.run(_ScoringAgain(self.shards, {name: scorer for name, (_, scorer) in self.finer.items()}))

    def _read(self, name: str) -> pa.Table:
        """Returns what a step has scored so far, a row for every window, null where it has not."""
        scorer = self.finer[name][1]
        starts = np.concatenate([[0], self.shards.rows.cumsum()])
        schema = pa.schema([(ID, pa.string()), *scorer.added_columns.items()])
        parts, places = [schema.empty_table()], np.full(int(starts[-1]), -1)
        for shard, file in enumerate(self.shards.names):
            path = self.shards.folder.scores_by(name) / file
            if read_facts(path, self.shards.score_fingerprint(shard, scorer.fingerprint)) is not None:
                part = read_shard(path)
                places[starts[shard] + part[_ROW].to_numpy()] = sum(map(len, parts)) + np.arange(len(part))
                parts.append(part.select(schema.names).cast(schema))
        return pa.concat_tables(parts).take(pa.array(places, mask=places < 0))
