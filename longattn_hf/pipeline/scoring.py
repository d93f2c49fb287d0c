"""The second of a build's two long stages: every scorer's own shards, beside those of windows and as resumable."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from longattn_hf.baselines.by_name import LONGATTN, make_scorer, takes
from longattn_hf.columns import ID, INPUT_IDS, SKIP_REASON, TEXT
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.processes import ALONE, Process
from longattn_hf.pipeline.shards import ROWS_AT_ONCE, ScoredShards, read_facts, write_shard
from longattn_hf.rows import columns_of
from longattn_hf.scoring.base import Scorer

# the settings of a build that are LongAttn's
_OF_LONGATTN = (
    "convention", "rope_theta", "rope_scaling", "impl", "add_bos", "seed", "per_head", "window_tokens", "batch_tokens",
)  # fmt: skip
_OF_THE_MODEL = ("model", "revision", "gguf_file", "dtype")


def make_scorers(config: BuildConfig) -> dict[str, Scorer]:
    """Returns the scorers of a build by name, in the order of its settings.

    Raises:
        ValueError: One has no such setting, lacks one, or gives LongAttn one that is the build's.
    """
    scorers = {}
    for name, own in config.choice.scorers.items():
        known: dict[str, Any] = {key: getattr(config, key) for key in (*_OF_THE_MODEL, "on_error")}
        if name == LONGATTN:
            known |= {key: getattr(config, key) for key in _OF_LONGATTN}
            known |= {"min_distance": config.resolved_min_distance, "row_fraction": config.first_fraction}
            # selection, report and card go by the build's
            if twice := ", ".join(key for key in own if key in known):
                raise ValueError(f"scorers gives longattn {twice}, which the build itself sets: give it there.")
        scorers[name] = make_scorer(name, {key: value for key, value in known.items() if takes(name, key)} | {**own})
    return scorers


def score_windows(shards: ScoredShards, scorers: Mapping[str, Scorer], *, process: Process = ALONE) -> int:
    """Scores every shard of windows by every scorer, or this process's share of them; see `Scoring`.

    Returns:
        How many windows were scored here, by one scorer or more; those of shards found done do not count.

    Raises:
        ValueError: As the scorers, or a shard of windows is damaged.
        OSError: As `write_shard`, or likewise.
    """
    return process.run(Scoring(shards, scorers))


@dataclass(frozen=True)
class _Lacking:
    """A unit of scoring: a shard of windows by its number, and the fingerprints of the scores it lacks, by scorer."""

    shard: int
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class Scoring:
    """Scores shards of windows; a unit is one shard by all scorers that it lacks.

    Attributes:
        shards: The shards; beside each file of windows comes one a scorer of ids and scores, without text.
        scorers: By name.
    """

    name: ClassVar[str] = "scores"
    counted: ClassVar[str] = "windows"

    shards: ScoredShards
    scorers: Mapping[str, Scorer]

    @property
    def folder(self) -> BuildFolder:
        """The shards' own."""
        return self.shards.folder

    @property
    def runs_models(self) -> bool:
        """Whether one of the scorers has a model."""
        return any(takes(name, "model") for name in self.scorers)

    def made_with(self) -> dict[str, str]:
        """Names the scorers, and the device where they compute on one."""
        return name_device(self.runs_models) | fingerprints_of(self.scorers)

    def units(self, workers: int, share: slice) -> list[_Lacking]:
        """Lists those of a share of the shards that lack scores."""
        fingerprints, units = fingerprints_of(self.scorers), []
        for shard in range(len(self.shards.names))[share]:
            lacking = {}
            for name, made_from in fingerprints.items():
                fingerprint = self.shards.score_fingerprint(shard, made_from)
                if read_facts(self.folder.scores_by(name) / self.shards.names[shard], fingerprint) is None:
                    lacking[name] = fingerprint
            if lacking:
                units.append(_Lacking(shard, lacking))
        return units

    def size(self, unit: _Lacking) -> int:
        """The shard's windows."""
        return int(self.shards.rows[unit.shard])

    def do(self, unit: _Lacking, tick: Callable[[int], object]) -> None:
        """Scores a shard."""
        file = self.shards.names[unit.shard]
        lacking = {name: self.scorers[name] for name in unit.fingerprints}
        tables: dict[str, list[pa.Table]] = {name: [] for name in lacking}
        for scored in _score_batches(self.folder.windows / file, lacking, tick):
            for name, table in scored.items():
                tables[name].append(table)
        for name, fingerprint in unit.fingerprints.items():
            whole = pa.concat_tables(tables[name], promote_options="default")
            # a changed bit in a page's header can end the batches early without a word
            if len(whole) != self.size(unit):
                path = self.folder.windows / file
                raise ValueError(f"{path} is damaged: run the same command again to make it anew.")
            facts = {"adds": list(self.scorers[name].added_columns)}
            write_shard(self.folder.scores_by(name) / file, whole, fingerprint, facts)


def read_all_scores(
    config: BuildConfig, shards: ScoredShards, scorers: Mapping[str, Scorer], *, process: Process
) -> pa.Table:
    """Reads the scores of all scorers, and shows how far it is; raises as `ScoredShards.read_scores`."""
    # the reasons of windows without scores are those of the scorers that decide
    made_from = {name: scorers[name].fingerprint for name in [*config.choice.deciding, *scorers]}
    with process.show(shards.folder, "scores read", int(shards.rows.sum()), "windows") as progress:
        return shards.read_scores(made_from, progress.update)


def fingerprints_of(scorers: Mapping[str, Scorer]) -> dict[str, str]:
    """Returns what the scores of each scorer depend on, by its name."""
    return {name: scorer.fingerprint for name, scorer in scorers.items()}


def name_device(runs_models: bool) -> dict[str, str]:
    """Returns the kind of device that models would run on here, as `device`; nothing where there are none."""
    if not runs_models:
        return {}
    from longattn_hf.model.device import pick_device

    return {"device": pick_device().type}


def _score_batches(
    path: Path, scorers: Mapping[str, Scorer], tick: Callable[[int], object]
) -> Iterator[dict[str, pa.Table]]:
    """Yields the scores of a few windows, by scorer: the windows' own columns without text and ids, and the scores."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        there = file.schema_arrow.names
        kept = [name for name in there if name not in (TEXT, INPUT_IDS)]
        reads = {name: scorer.column_of(there) for name, scorer in scorers.items()}
        # a source's own column may be called like a score
        own = {name: [c for c in kept if c not in scorer.added_columns] for name, scorer in scorers.items()}
        yield {name: file.schema_arrow.empty_table().select(columns) for name, columns in own.items()}
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(dict.fromkeys((*kept, *reads.values())))):
            table = pa.Table.from_batches([batch])
            # each is made when a scorer first reads it, and once
            columns, scored = columns_of(table), {}
            for name, scorer in scorers.items():
                scored[name] = _add_scores(table.select(own[name]), scorer, {reads[name]: columns[reads[name]]}, path)
            tick(len(batch))
            yield scored


def score_some(table: pa.Table, scorer: Scorer, path: Path) -> pa.Table:
    """Scores windows of one shard, with their ids or text; returns their `id`s and the scores."""
    column = scorer.column_of(table.column_names)
    return _add_scores(table.select([ID]), scorer, {column: columns_of(table)[column]}, path)


def _add_scores(table: pa.Table, scorer: Scorer, read: Mapping[str, Sequence[Any]], path: Path) -> pa.Table:
    try:
        scores = scorer(read)
    except ValueError as error:
        raise ValueError(f"While scoring {path.name}, windows {table[ID].to_pylist()}: {error}") from error
    for name, added in scores.items():
        table = table.append_column(name, pa.array(added, pa.string() if name == SKIP_REASON else None))
    return table
