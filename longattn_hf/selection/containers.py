"""What rows lie in: datasets, their splits, streams, data frames and tables of Arrow."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict

from longattn_hf.rows import plain, plain_texts, put_array, read_table, table_of

_BATCH = 1000


def read_columns(rows: Any, *names: str | None) -> pa.Table:
    """Reads those of the named columns that there are; categories as their names, without regard to formats.

    Of splits, one after another, the columns that all have; a stream is read to its end.

    Raises:
        ValueError: `rows` is nothing that holds rows.
    """
    if isinstance(rows, Dataset):
        present = [name for name in _wanted(names) if name in rows.column_names]
        return _plain(rows.select_columns(present).with_format("arrow")[:], rows.features)
    if isinstance(rows, DatasetDict | IterableDatasetDict):
        return _joined([read_columns(split, *names) for split in rows.values()])
    if isinstance(rows, IterableDataset):
        return _joined([read_batch(batch, rows.features, *names) for batch in exact(rows).iter(_BATCH)])
    if isinstance(rows, pd.DataFrame) or is_polars(rows):
        return _plain(read_table(rows[[name for name in _wanted(names) if name in rows.columns]]))
    return _plain(_pick(read_table(rows), names))


def read_batch(batch: Any, features: Features | None, *names: str | None) -> pa.Table:
    """Reads columns of a batch as some format of `datasets` hands it on; see `read_columns`."""
    if (table := table_of(batch)) is not None:
        return _plain(_pick(table, names), features)
    return _plain(pa.table({name: _array_of(batch[name]) for name in _wanted(names) if name in batch}), features)


def _array_of(values: Any) -> pa.Array:
    # arrays and tensors have NaN for null
    formatted = not isinstance(values, list) or any(hasattr(value, "item") for value in values)
    return pa.array([plain(value) for value in values], from_pandas=formatted)


def exact(stream: IterableDataset) -> IterableDataset:
    """Returns a stream in a format that rounds no numbers, as those of numpy and torch do."""
    # where it knows no types, `datasets` would make tables of single rows, which do not join
    return stream.with_format("arrow" if stream.features else None)


def in_format_of(stream: IterableDataset, like: IterableDataset) -> IterableDataset:
    """Returns a stream in the format of another."""
    formatting = like._formatting
    return stream.with_format(formatting.format_type if formatting else None)


def keep_rows(rows: Any, keep: np.ndarray) -> Any:
    """Returns the marked rows, in their order and in what they lie in; of splits, `keep` marks one after another."""
    if isinstance(rows, Dataset):
        return rows.select(np.flatnonzero(keep))
    if isinstance(rows, DatasetDict):
        return DatasetDict({name: keep_rows(rows[name], part) for name, part in _by_split(rows, keep).items()})
    if isinstance(rows, pd.DataFrame):
        return rows[keep]
    if isinstance(rows, pa.Table):
        views = [(at, field) for at, field in enumerate(rows.schema) if field.type == pa.string_view()]
        for at, field in views:
            # Arrow filters no views
            rows = rows.set_column(at, field.name, rows[at].cast(pa.large_string()))
        return rows.filter(pa.array(keep))
    return rows.filter(keep)


def put_column(rows: Any, name: str, values: pa.Array) -> Any:
    """Returns the rows with a column put in place of one of the same name, or after the others."""
    if isinstance(rows, Dataset):
        rows = rows.remove_columns(name) if name in rows.column_names else rows
        return rows.add_column(name, values)
    if isinstance(rows, DatasetDict):
        return DatasetDict({split: put_column(rows[split], name, v) for split, v in _by_split(rows, values).items()})
    if isinstance(rows, pd.DataFrame):
        return rows.assign(**{name: values.to_numpy(zero_copy_only=False)})
    if isinstance(rows, pa.Table):
        return put_array(rows, name, values)
    return rows.with_columns(type(rows)(pa.table({name: values})).get_column(name))


def is_polars(rows: Any) -> bool:
    """Says whether rows are a data frame of polars, which is not loaded for it."""
    return type(rows).__module__.partition(".")[0] == "polars" and hasattr(rows, "__arrow_c_stream__")


def as_container(rows: Any) -> Any:
    """Returns what can be read again and again: what only speaks Arrow as a table, all else as it is.

    Raises:
        ValueError: It is nothing that holds rows.
    """
    if isinstance(rows, DatasetDict) and not rows:
        raise ValueError("The DatasetDict has no splits.")
    known = isinstance(rows, Dataset | DatasetDict | IterableDataset | pd.DataFrame) or is_polars(rows)
    return rows if known else read_table(rows)


def _by_split(rows: DatasetDict, values: Any) -> dict[str, Any]:
    ends = np.cumsum([len(split) for split in rows.values()])
    return {name: values[end - len(rows[name]) : end] for name, end in zip(rows, ends, strict=True)}


def _wanted(names: tuple[str | None, ...]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name is not None]


def _pick(table: pa.Table, names: tuple[str | None, ...]) -> pa.Table:
    return table.select([name for name in _wanted(names) if name in table.column_names])


def _joined(tables: list[pa.Table]) -> pa.Table:
    if not tables:
        return pa.table({})
    shared = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
    return pa.concat_tables([table.select(shared) for table in tables], promote_options="permissive")


def _plain(table: pa.Table, features: Mapping[str, Any] | None = None) -> pa.Table:
    """Writes out what stands for texts: labels by number, dictionaries, and types of other libraries."""
    for at, field in enumerate(table.schema):
        if isinstance(label := (features or {}).get(field.name), ClassLabel) and pa.types.is_integer(field.type):
            labels = [None if code is None else label.int2str(code) for code in table[at].to_pylist()]
            table = table.set_column(at, field.name, pa.array(labels, pa.string()))
    return plain_texts(table)
