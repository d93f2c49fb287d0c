"""From scores to the finished dataset's files: one process decides what goes where, and all write it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features

from longattn_hf.columns import (
    CATEGORY,
    ID,
    INPUT_IDS,
    KEPT,
    SKIP_REASON,
)
from longattn_hf.files import replacing, write_parquet
from longattn_hf.hub.layout import DATA, SCORES
from longattn_hf.pipeline.processes import ALONE, Process
from longattn_hf.pipeline.shards import ScoredShards
from longattn_hf.report.parts import ConfigurationFacts

# a Parquet file of text takes half of it or less: this stays below the 500 MB that the Hub's tools like
_CHARACTERS_PER_FILE = 300_000_000
_SCORES_PER_FILE = 250_000
_GO_ON = "Make room, or make the folder writable, and the same command goes on from the scores"
# where a kept window's text stands: the number of its shard, and its row there
_SHARD, _ROW = "shard", "row"
_FILES = b"files"


@dataclass(frozen=True)
class OutputFile:
    """A Parquet file of the finished dataset: its configuration, its path in it, its rows of the score table."""

    config: str
    path: str
    rows: np.ndarray


def plan_files(scores: pa.Table, categories: Sequence[str]) -> list[OutputFile]:
    """Lays out the finished dataset: `data/<category>/` with the kept windows, `scores/` with a row for every window.

    Args:
        scores: All windows, with the columns `category` and `kept`.
        categories: All categories; one without a kept window gets an empty file.
    """
    kept = scores[KEPT].to_numpy(zero_copy_only=False)
    category = scores[CATEGORY].to_numpy(zero_copy_only=False)
    characters = scores["end_char"].to_numpy() - scores["start_char"].to_numpy()
    files = []
    for name in categories:
        rows = np.flatnonzero(kept & (category == name))
        file_of_row = (np.cumsum(characters[rows]) - characters[rows]) // _CHARACTERS_PER_FILE
        cuts = np.flatnonzero(np.diff(file_of_row)) + 1
        files += _numbered(name, f"{DATA}/{name}", np.split(rows, cuts))
    every = np.arange(len(scores))
    return files + _numbered(SCORES, SCORES, np.split(every, every[_SCORES_PER_FILE::_SCORES_PER_FILE]))


def _numbered(config: str, folder: str, parts: Sequence[np.ndarray]) -> list[OutputFile]:
    return [
        OutputFile(config, f"{folder}/train-{number:05d}-of-{len(parts):05d}.parquet", rows)
        for number, rows in enumerate(parts)
    ]


def write_selection(
    files: Sequence[OutputFile],
    scores: pa.Table,
    shards: ScoredShards,
    added: Sequence[str],
    *,
    process: Process = ALONE,
) -> None:
    """Stages the files of scores, and writes down, for all processes, which windows the other files hold.

    That is the folder's `selection`: for each of these files a row group with the place and the scores of its windows.

    Args:
        files: The plan.
        scores: All windows.
        shards: Where they stand.
        added: The columns of `scores` that kept windows get.
        process: Shows how far it is.

    Raises:
        OSError: The folder is full or cannot be written to.
    """
    folder = shards.folder
    with process.show(folder, "scores written", len(scores), "windows") as progress:
        for file in (file for file in files if file.config == SCORES):
            # its rows follow one another: nothing is copied
            table = scores.slice(file.rows[0] if len(file.rows) else 0, len(file.rows))
            table = table.drop_columns([name for name in (SKIP_REASON,) if name in table.column_names])
            write_parquet(Dataset(table), folder.staging / file.path, hint=_GO_ON)
            progress.update(len(file.rows))
    kept = [file for file in files if file.config != SCORES]
    schema = pa.schema([(_SHARD, pa.int64()), (_ROW, pa.int64()), *(scores.schema.field(n) for n in (ID, *added))])
    plan = json.dumps([(file.path, len(file.rows)) for file in kept])
    with (
        replacing(folder.selection, hint=_GO_ON) as target,
        pq.ParquetWriter(target, schema.with_metadata({_FILES: plan}), compression="zstd") as writer,
    ):
        for file in kept:
            columns = scores.select([ID, *added]).take(file.rows).columns
            place = [pa.chunked_array([numbers]) for numbers in shards.locate(file.rows)]
            writer.write_table(pa.table([*place, *columns], schema=schema), row_group_size=max(len(file.rows), 1))


def write_kept(shards: ScoredShards, *, process: Process) -> None:
    """Stages this process's share of the files that `selection.parquet` plans: kept windows with text and scores.

    Raises:
        ValueError: A window's row no longer matches its score's.
        OSError: The folder is full or cannot be written to.
    """
    folder = shards.folder
    with pq.ParquetFile(folder.selection) as selection:
        files = json.loads(selection.schema_arrow.metadata[_FILES])
        group_of = np.cumsum([count > 0 for _, count in files]) - 1
        numbers = range(process.index, len(files), process.count)
        total = sum(files[number][1] for number in numbers)
        with process.show(folder, "windows written", total, "windows") as progress:
            for number in numbers:
                path, count = files[number]
                group = int(group_of[number])
                scores = selection.read_row_group(group) if count else selection.schema_arrow.empty_table()
                write_parquet(Dataset(_with_text(scores, shards)), folder.staging / path, hint=_GO_ON)
                progress.update(count)


def _with_text(scores: pa.Table, shards: ScoredShards) -> pa.Table:
    """Joins kept windows to their text, which stands at the same place of the shard that their scores came from."""
    table = shards.read_windows(scores[_SHARD].to_numpy(), scores[_ROW].to_numpy())
    # a source's own column may be called like a score
    replaced = (INPUT_IDS, *scores.column_names[3:])
    table = table.drop_columns([name for name in replaced if name in table.column_names])
    if not table[ID].equals(scores[ID].cast(table.schema.field(ID).type)):
        raise ValueError(
            "The windows' shards changed after they were scored; run the same command again to score them."
        )
    for field in list(scores.schema)[3:]:
        table = table.append_column(field, scores[field.name])
    return table


def describe_files(files: Sequence[OutputFile], folder: Path) -> dict[str, ConfigurationFacts]:
    """Returns, configuration by configuration, what a dataset's card states of its files in `folder`."""
    described: dict[str, ConfigurationFacts] = {}
    for config in dict.fromkeys(file.config for file in files):
        paths = [folder / file.path for file in files if file.config == config]
        metadata = [pq.read_metadata(path) for path in paths]
        groups = (file.row_group(group) for file in metadata for group in range(file.num_row_groups))
        described[config] = ConfigurationFacts(
            data_files=f"{paths[0].parent.relative_to(folder).as_posix()}/train-*.parquet",
            num_rows=sum(file.num_rows for file in metadata),
            num_bytes=sum(group.total_byte_size for group in groups),
            download_size=sum(path.stat().st_size for path in paths),
            features=Features.from_arrow_schema(pq.read_schema(paths[0]))._to_yaml_list(),
        )
    return described
