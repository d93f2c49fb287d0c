"""Rows as each format of `datasets` hands them on, and columns whose type does not hang on their first values."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets.formatting.formatting import LazyDict

# Arrow's plain strings have offsets of 32 bits
_STRING_BYTES = 2**31 - 1
_PART_CHARACTERS = 2**20


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
    return None if isinstance(rows, Mapping) else _with_plain_texts(read_table(rows), rows)


def read_table(rows: Any) -> pa.Table:
    """Returns a table of Arrow, pandas, polars or whatever speaks Arrow, with the types that it comes with.

    Raises:
        ValueError: It is none.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, pd.DataFrame):
        return pa.Table.from_pandas(rows, preserve_index=False)
    if hasattr(rows, "__arrow_c_stream__"):
        try:
            return pa.table(rows)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{type(rows).__name__} is no table of columns: {error}") from error
    raise ValueError(
        f"Rows come as {type(rows).__name__}; accepted are tables of Arrow, pandas, polars and whatever has "
        "__arrow_c_stream__. Scorers and windowing take mappings of columns too."
    )


def _with_plain_texts(table: pa.Table, rows: Any) -> pa.Table:
    """Undoes the types that pandas and polars have of their own for texts, so that batches of all formats agree."""
    return table if isinstance(rows, pa.Table | pa.RecordBatch) else plain_texts(table).replace_schema_metadata(None)


def plain_texts(table: pa.Table) -> pa.Table:
    """Writes out what stands for values: other string types, in pieces that the plain one holds, and dictionaries."""
    for at, (field, column) in enumerate(zip(table.schema, table.columns, strict=True)):
        if pa.types.is_dictionary(field.type) and field.type.value_type in (pa.string(), pa.large_string()):
            table = table.set_column(at, field.name, column.cast(pa.large_string()))
        elif pa.types.is_dictionary(field.type):
            table = table.set_column(at, field.name, pa.array(column.to_pylist(), field.type.value_type))
    for at, field in enumerate(table.schema):
        if field.type in (pa.large_string(), pa.string_view()):
            chunks = [part for chunk in table[at].cast(pa.large_string()).chunks for part in _halves(chunk)]
            texts = pa.chunked_array([chunk.cast(pa.string()) for chunk in chunks], pa.string())
            table = table.set_column(at, field.name, texts)
    return table


def _halves(array: pa.Array) -> list[pa.Array]:
    if array.nbytes < _STRING_BYTES or len(array) < 2:
        return [array]
    half = len(array) // 2
    return [*_halves(array[:half]), *_halves(array[half:])]


def on_arrow(transform: Any, *, batch_size: int = 1000) -> "OnArrow":
    """Makes a scorer, or `WindowDocuments`, a function of tables, for engines that hand on Arrow.

    Ray Data calls it with `batch_format="pyarrow"`; Spark's `mapInArrow`, Daft and DuckDB hand it their batches.

    Args:
        transform: What is to be done; its attribute `makes_rows` says whether it makes new rows, as windows of
            documents, or adds columns beside those that are there. The function pickles as it does.
        batch_size: The most rows that are read at once.

    Returns:
        A function of a `pa.Table`, a `pa.RecordBatch` or whatever has `__arrow_c_stream__` (polars, pandas, DuckDB),
        to a `pa.Table`.

    Raises:
        ValueError: `transform` does not say which, or `batch_size` is below 1; in the function, what is given is no
            table, or as `transform` does.
    """
    return OnArrow(transform, batch_size)


@dataclass(frozen=True)
class OnArrow:
    """What `on_arrow` returns, with its arguments."""

    transform: Any
    batch_size: int

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.transform, "makes_rows", None), bool):
            raise ValueError(
                f"on_arrow takes a scorer or WindowDocuments, or what says with an attribute makes_rows whether it "
                f"makes rows or adds columns, and got {type(self.transform).__name__}."
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")

    def __call__(self, rows: Any) -> pa.Table:
        """Transforms a table."""
        table = _with_plain_texts(read_table(rows), rows)
        starts = range(0, max(len(table), 1), self.batch_size)
        result = pa.concat_tables(self.transform(table.slice(start, self.batch_size)) for start in starts)
        if not self.transform.makes_rows and len(result) != len(table):
            raise ValueError(f"{type(self.transform).__name__} made {len(result)} rows of {len(table)}.")
        return result


class _Columns(Mapping[str, Sequence[Any]]):
    """A table's columns as lists, each made when it is asked for; of lists of numbers each row is a numpy view."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._read: dict[str, Sequence[Any]] = {}

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self._read:
            self._read[name] = _values_of(self._table[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return self._table.num_columns

    def __contains__(self, name: object) -> bool:
        return name in self._table.column_names


def columns_of(table: pa.Table) -> Mapping[str, Sequence[Any]]:
    """Returns the columns of a table as lists; of lists of numbers each row is a numpy view, which copies nothing."""
    return _Columns(table)


_IS_LIST = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def _values_of(column: pa.ChunkedArray) -> Sequence[Any]:
    kind = column.type
    if not any(is_kind(kind) for is_kind in _IS_LIST) or not (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    ):
        return column.to_pylist()
    return [
        row.values.to_numpy(zero_copy_only=False) if row.is_valid else None for chunk in column.chunks for row in chunk
    ]


def with_columns(table: pa.Table, columns: Mapping[str, TypedList]) -> pa.Table:
    """Returns the table with columns put in place of those of the same names, or after the others."""
    for name, values in columns.items():
        table = put_array(table, name, pa.array(values))
    return table


def put_array(table: pa.Table, name: str, array: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Returns the table with a column put in place of that of the same name, or after the others."""
    at = table.schema.get_field_index(name)
    return table.append_column(name, array) if at < 0 else table.set_column(at, name, array)


def types_in(rows: Mapping[str, Any]) -> dict[str, pa.DataType]:
    """Returns the types of a batch's columns, as far as it knows them: one that `datasets` hands on does."""
    return {field.name: field.type for field in rows.pa_table.schema} if isinstance(rows, LazyDict) else {}


def first_row(columns: Mapping[str, TypedList], rows: Any) -> dict[str, Any]:
    """Returns the first row of columns, as a map of single rows returns it.

    Where `datasets` will write it, a value keeps its column's type, as in a `TypedList`, since a null has none and
    Arrow takes no typed null beside plain values. Lists stay plain: `datasets` cannot write them otherwise.
    """
    typed = isinstance(rows, LazyDict)
    return {
        name: pa.scalar(values[0], values.type) if typed and not pa.types.is_nested(values.type) else values[0]
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


def utf8_parts(text: str) -> Iterator[bytes]:
    """Encodes a text part by part, since a long one encoded needs as much memory again."""
    for start in range(0, len(text), _PART_CHARACTERS):
        yield text[start : start + _PART_CHARACTERS].encode()


def is_unicode(text: str) -> bool:
    """Says whether a text can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        for _ in utf8_parts(text):
            pass
    except UnicodeEncodeError:
        return False
    return True
