"""Rows as each format of `datasets` hands them on, and columns whose type does not hang on their first values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets.formatting.formatting import LazyDict


class TypedList(list[Any]):
    """A column of a batch that Arrow reads as of one type, also where all its values are null.

    `datasets` fixes a column's type by the first batch: one that begins with nulls could hold nothing else later.
    """

    def __init__(self, values: Iterable[Any], type_: pa.DataType) -> None:
        super().__init__(values)
        self.type = type_

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array([*self], type or self.type)


def table_of(rows: Any) -> pa.Table | None:
    """Returns rows that came as a table of Arrow, pandas, polars or whatever speaks Arrow; None for a mapping.

    Raises:
        ValueError: They are neither.
    """
    if isinstance(rows, Mapping):
        return None
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, pd.DataFrame):
        return _with_plain_texts(pa.Table.from_pandas(rows, preserve_index=False))
    if hasattr(rows, "__arrow_c_stream__"):
        return _with_plain_texts(pa.table(rows))
    raise ValueError(
        f"Rows come as {type(rows).__name__}; accepted are a mapping of columns and a table of Arrow, pandas or "
        "polars."
    )


def _with_plain_texts(table: pa.Table) -> pa.Table:
    """Undoes the string types that pandas and polars have of their own, so that batches of all formats agree."""
    for at, field in enumerate(table.schema):
        if field.type in (pa.large_string(), pa.string_view()):
            table = table.set_column(at, field.name, table.column(at).cast(pa.string()))
    return table.replace_schema_metadata(None)


def columns_of(table: pa.Table) -> dict[str, Sequence[Any]]:
    """Returns the columns of a table as lists; of lists of numbers each row is a numpy view, which copies nothing."""
    return {name: _values_of(table[name]) for name in table.column_names}


def _values_of(column: pa.ChunkedArray) -> Sequence[Any]:
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    ):
        return column.to_pylist()
    return [
        row.values.to_numpy(zero_copy_only=False) if row.is_valid else None for chunk in column.chunks for row in chunk
    ]


def with_columns(table: pa.Table, columns: Mapping[str, TypedList]) -> pa.Table:
    """Returns the table with columns put in place of those of the same names, or after the others."""
    for name, values in columns.items():
        array = pa.array(values)
        at = table.schema.get_field_index(name)
        table = table.append_column(name, array) if at < 0 else table.set_column(at, name, array)
    return table


def types_in(rows: Mapping[str, Any]) -> dict[str, pa.DataType]:
    """Returns the types of a batch's columns, as far as it knows them: one that `datasets` hands on does."""
    return {field.name: field.type for field in rows.pa_table.schema} if isinstance(rows, LazyDict) else {}


def first_row(columns: Mapping[str, TypedList], rows: Any) -> dict[str, Any]:
    """Returns the first row of columns, as a map of single rows returns it.

    Where `datasets` will write it, a null keeps its column's type, as in a `TypedList`.
    """
    typed = isinstance(rows, LazyDict)
    return {
        name: pa.scalar(None, values.type) if typed and values[0] is None else values[0]
        for name, values in columns.items()
    }


def plain(value: Any) -> Any:
    """Returns the plain value of a scalar of numpy, torch or Arrow, which a format of `datasets` hands on."""
    for method in ("as_py", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    return value


def is_null(value: Any) -> bool:
    """Says whether a value is one of the nulls of some format: None, NaN, or pandas' NA."""
    return value is None or value is pd.NA or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
