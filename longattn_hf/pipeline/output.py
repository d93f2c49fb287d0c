"""From scored shards to the finished data set's files, written by all processes and put in place at once."""

import os
import shutil
from collections.abc import Mapping, Sequence
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
    LONG_DISTANCE_SCORE,
    SCORE_FEATURES,
    SKIP_REASON,
    STANDARD_ERROR,
    TEXT,
)
from longattn_hf.hub.staging import write_parquet
from longattn_hf.pipeline.stages import Process

SCORES = "scores"

# a Parquet file of text takes half of it or less: this stays below the 500 MB that the Hub's tools like
_CHARACTERS_PER_FILE = 300_000_000
_SCORES_PER_FILE = 1_000_000
_GO_ON = "make room, or make the folder writable, and the same command goes on from the scores"


@dataclass(frozen=True)
class OutputFile:
    """A Parquet file of the finished data set: its configuration, its path in it, its rows of the score table."""

    config: str
    path: str
    rows: np.ndarray


def load_scores(names: Sequence[str], folder: Path) -> tuple[pa.Table, np.ndarray]:
    """Reads all score shards.

    Args:
        names: The shards, in the corpus's order.
        folder: Where they are.

    Returns:
        The scored windows in that order, and the shard's number of each, int64 `[len(table)]`.
    """
    tables = [pq.read_table(folder / name, page_checksum_verification=True) for name in names]
    shard_of_row = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    return pa.concat_tables([t.replace_schema_metadata(None) for t in tables], promote_options="default"), shard_of_row


def plan_files(scores: pa.Table, categories: Sequence[str]) -> list[OutputFile]:
    """Lays out the finished data set: `data/<category>/` with the kept windows, `scores/` with a row for every window.

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
        files += _numbered(name, f"data/{name}", np.split(rows, cuts))
    every = np.arange(len(scores))
    return files + _numbered(SCORES, SCORES, np.split(every, every[_SCORES_PER_FILE::_SCORES_PER_FILE]))


def _numbered(config: str, folder: str, parts: Sequence[np.ndarray]) -> list[OutputFile]:
    return [
        OutputFile(config, f"{folder}/train-{number:05d}-of-{len(parts):05d}.parquet", rows)
        for number, rows in enumerate(parts)
    ]


def write_files(
    files: Sequence[OutputFile],
    scores: pa.Table,
    shard_of_row: np.ndarray,
    names: Sequence[str],
    windows: Path,
    folder: Path,
    *,
    process: Process,
) -> None:
    """Writes this process's share of the planned files into `folder`.

    Raises:
        ValueError: A window's row no longer matches its score's.
        OSError: The folder is full or cannot be written to.
    """
    for file in files[process.index :: process.count]:
        table = scores.take(file.rows)
        if file.config == SCORES:
            table = table.drop_columns([name for name in (SKIP_REASON,) if name in table.column_names])
        else:
            table = _with_text(table, file.rows, shard_of_row, names, windows)
        write_parquet(Dataset(table), folder / file.path, hint=_GO_ON)


def _with_text(
    scores: pa.Table, rows: np.ndarray, shard_of_row: np.ndarray, names: Sequence[str], windows: Path
) -> pa.Table:
    """Joins kept windows to their text, which stands at the same place of the shard that their scores came from."""
    added = [name for name in (*SCORE_FEATURES, LONG_DISTANCE_SCORE) if name in scores.column_names]
    first_row = np.searchsorted(shard_of_row, np.arange(len(names)))
    parts = []
    for shard in dict.fromkeys(shard_of_row[rows].tolist()) or [0]:
        file = pq.ParquetFile(windows / names[shard], page_checksum_verification=True)
        columns = [name for name in file.schema_arrow.names if name != INPUT_IDS]
        mine = rows[shard_of_row[rows] == shard] - first_row[shard]
        parts.append(file.read(columns).replace_schema_metadata(None).take(mine))
    table = pa.concat_tables(parts, promote_options="default")
    if not table[ID].equals(scores[ID].cast(table.schema.field(ID).type)):
        raise ValueError(
            "The windows' shards changed after they were scored; run the same command again to score them."
        )
    extra = [name for name in scores.column_names if name.endswith(("_per_head", STANDARD_ERROR))]
    for name in (*added, *extra):
        table = table.append_column(scores.schema.field(name), scores[name])
    return table


def read_texts(rows: np.ndarray, shard_of_row: np.ndarray, names: Sequence[str], windows: Path) -> list[str]:
    """Reads the text of a few windows, for the card's examples."""
    first_row = np.searchsorted(shard_of_row, np.arange(len(names)))
    return [
        pq.read_table(windows / names[shard_of_row[row]], columns=[TEXT])[TEXT][
            int(row - first_row[shard_of_row[row]])
        ].as_py()
        for row in rows
    ]


def put_in_place(staging: Path, output: Path) -> None:
    """Moves finished files and folders from `staging` over those of `output`, the card last.

    A data set without its card is visibly unfinished, and the same command finishes it.
    """
    card = "README.md"
    (output / card).unlink(missing_ok=True)
    for entry in sorted(staging.iterdir(), key=lambda path: path.name == card):
        target = output / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)


def describe_files(files: Sequence[OutputFile], folder: Path) -> dict[str, Mapping[str, object]]:
    """Returns, configuration by configuration, what a data set's card states of its files."""
    described: dict[str, Mapping[str, object]] = {}
    for config in dict.fromkeys(file.config for file in files):
        paths = [folder / file.path for file in files if file.config == config]
        metadata = [pq.read_metadata(path) for path in paths]
        described[config] = {
            "data_files": f"{paths[0].parent.relative_to(folder).as_posix()}/train-*.parquet",
            "num_rows": sum(file.num_rows for file in metadata),
            "num_bytes": sum(
                f.row_group(group).total_byte_size for f in metadata for group in range(f.num_row_groups)
            ),
            "download_size": sum(path.stat().st_size for path in paths),
            "features": Features.from_arrow_schema(pq.read_schema(paths[0]))._to_yaml_list(),
        }
    return described
