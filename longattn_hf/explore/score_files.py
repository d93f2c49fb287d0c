"""The files that hold a corpus's scores, of a finished build, of one that goes on, or of none, and their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from huggingface_hub import HfApi, HfFileSystem

from longattn_hf.baselines.by_name import LONGATTN, ranking_column
from longattn_hf.columns import CATEGORY, DOC_ID, ID, KEPT, SKIP_REASON, SOURCE
from longattn_hf.files import is_address
from longattn_hf.hub.client import bounded_timeouts, persist
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.so_far import ScoresSoFar
from longattn_hf.pipeline.store import Store
from longattn_hf.selection.standardisation import RAW_SCORES

#: The columns of text that selection reads, ids aside.
STRINGS = (DOC_ID, SOURCE, CATEGORY)
_OWN = (ID, *STRINGS, "start_token", "num_tokens")


def open_folder(folder: str | Path, revision: str | None, token: str | None) -> tuple[AbstractFileSystem, str]:
    """Returns where a folder, a Parquet file or a dataset on the Hub is, and its path there.

    Raises:
        ValueError: It is none of these, or as the Hub's client.
    """
    if is_address(str(folder)):
        return Store(str(folder)).opened
    path = Path(folder)
    if path.is_dir() or (path.is_file() and path.suffix == ".parquet"):
        return fsspec.filesystem("file"), path.resolve().as_posix()
    if path.exists() or path.is_absolute() or path.suffix in (".parquet", ".jsonl", ".json"):
        there = "is neither a folder nor a Parquet file" if path.exists() else "is not there"
        raise ValueError(f"{folder} {there}. Give a build's folder, a Parquet file of scores, or a dataset's id.")
    # pinned, so that a window's text is that of its scores even if somebody publishes meanwhile
    api = HfApi(token=token)
    with bounded_timeouts(60.0):
        commit = persist(
            lambda: api.repo_info(str(folder), repo_type="dataset", revision=revision).sha,
            what=f"opening the dataset {str(folder)!r}",
            attempts=3,
            last_word="Give a build's folder, or a dataset on the Hub",
        )
    return HfFileSystem(token=token), f"datasets/{folder}@{commit}"


@dataclass(frozen=True)
class ScoreFiles:
    """Files of scores.

    Attributes:
        paths: Where they are.
        tables: What selection reads of each.
        so_far: What the build has that has not ended; None where it has, or where no build wrote them.
    """

    paths: list[str]
    tables: list[pa.Table]
    so_far: ScoresSoFar | None = None

    @classmethod
    def read(cls, files: AbstractFileSystem, folder: BuildFolder, others: Sequence[str]) -> "ScoreFiles":
        """Reads those of a folder.

        Args:
            files: Where it is.
            folder: A build's, one of any Parquet files, or such a file.
            others: The columns of scores beside LongAttn's.

        Raises:
            ValueError: It is of a build that goes on, and no window has all scores that decide.
        """
        columns = (*RAW_SCORES, KEPT, SKIP_REASON, *others)
        one = folder.path.as_posix()
        # a folder may be called so too
        paths = [one] if folder.path.suffix == ".parquet" and files.isfile(one) else []
        paths = paths or _list(files, folder.published_scores, "*.parquet")
        if not paths:
            so_far = ScoresSoFar(folder, files)
            # what an earlier run has left is no file of scores of its own
            if so_far.settings or any(so_far.scored.values()):
                return cls._join(files, so_far)
        paths = paths or _list(files, folder.path, "**/*.parquet")
        return cls(paths, [_read_numbers(files, path, columns, {RAW_SCORES[0], *others}) for path in paths])

    @classmethod
    def _join(cls, files: AbstractFileSystem, so_far: ScoresSoFar) -> "ScoreFiles":
        paths, tables = [], []
        for name in so_far.whole:
            table: pa.Table | None = None
            for scorer in so_far.scorers:
                if (shard := so_far.scores[scorer].get(name)) is None:
                    continue
                own = RAW_SCORES if scorer == LONGATTN else (ranking_column(scorer),)
                try:
                    more = _read_numbers(files, shard.path, own, {*own})
                except (OSError, pa.ArrowInvalid):
                    # damaged: the build makes it anew
                    more = pa.table({ID: pa.array([], pa.string())})
                if table is None:
                    table, path = more, shard.path
                elif more[ID].equals(table[ID]):
                    for column in own:
                        if column in more.column_names:
                            table = table.append_column(column, more[column])
                elif scorer in so_far.deciding:
                    break
            else:
                if table is not None and len(table):
                    paths.append(path)
                    tables.append(table)
        if not tables:
            counts = ", ".join(f"{name} {count:,}" for name, count in so_far.scored.items())
            raise ValueError(
                f"There are no scored windows yet: none has all scores that decide ({', '.join(so_far.deciding)}); so "
                f"many have been scored: {counts}. Wait, or run the build's command again where it was ended."
            )
        return cls(paths, tables, so_far)


def _list(files: AbstractFileSystem, folder: Path, pattern: str) -> list[str]:
    # a folder's own name may hold brackets
    return sorted(files.glob(f"{escape(folder.as_posix())}/{pattern}"))


def _read_numbers(files: AbstractFileSystem, path: str, columns: Sequence[str], scores: set[str]) -> pa.Table:
    """Reads a window's own columns and others; nothing where there is none of `scores`.

    Where there are no ids, the rows' numbers are the ids.

    Raises:
        ValueError: It has scores, and does not say of each window how long it is, or of some which category's.
    """
    with files.open(path, "rb") as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        present = [name for name in dict.fromkeys((*_OWN, *columns)) if name in parquet.schema_arrow.names]
        if not scores & {*present}:
            return pa.table({ID: pa.array([], pa.string())})
        if "num_tokens" not in present:
            raise ValueError(f"{path} has no column num_tokens, the windows' lengths; `longattn score` adds it.")
        table = parquet.read(present)
        lengths = table["num_tokens"].type
        if not (pa.types.is_integer(lengths) or pa.types.is_floating(lengths) or pa.types.is_null(lengths)):
            raise ValueError(f"{path}: column 'num_tokens' is {lengths}, and must be the windows' lengths in tokens.")
        for name in {"num_tokens", CATEGORY} & {*present}:
            if unknown := table[name].null_count:
                raise ValueError(f"{path}: column {name!r} is null in {unknown:,} rows; every window needs one.")
        return with_ids(table if ID in present else table.append_column(ID, pa.array(range(len(table)))))


def with_ids(table: pa.Table) -> pa.Table:
    """Makes the ids of a table plain texts, as they are shown, whatever type they have; a null one is `None`."""
    if ID not in table.column_names:
        return table
    texts = table[ID].cast(pa.large_string()).cast(pa.string()).fill_null("None")
    return table.set_column(table.column_names.index(ID), ID, texts)


def put_in_order(whole: pa.Table, order: np.ndarray) -> pa.Table:
    """Puts the columns that selection reads in order, texts encoded, ids as ranks."""
    columns = {ID: pa.array(np.char.mod(f"%0{len(str(len(order)))}d", np.arange(len(order))))}
    for name in whole.column_names:
        if name in STRINGS:
            columns[name] = whole[name].cast(pa.string()).combine_chunks().dictionary_encode().take(pa.array(order))
        elif name not in (ID, KEPT, SKIP_REASON):
            columns[name] = whole[name].combine_chunks().take(pa.array(order))
    return pa.table(columns)
