"""Transforms as functions of tables, for whatever hands on Arrow."""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset

from longattn_hf import LongAttnScorer, WindowDocuments, on_arrow
from longattn_hf.baselines import GzipRatio
from longattn_hf.rows import columns_of, plain_texts

TEXTS = [" ".join(f"word{(i * n) % 17}" for i in range(60)) for n in range(1, 6)]


class Stream:
    """What an engine hands on that speaks Arrow and is nothing else."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def polars_of(table):
    return pytest.importorskip("polars").DataFrame(table)


KINDS = {
    "table": lambda table: table,
    "chunked table": lambda table: pa.concat_tables([table.slice(0, 2), table.slice(2)]),
    "batch": lambda table: table.combine_chunks().to_batches()[0],
    "pandas": lambda table: table.to_pandas(),
    "pandas, another index": lambda table: table.to_pandas().set_index(pd.Index(range(5, 0, -1))),
    "pandas categories": lambda table: table.to_pandas().astype({"category": "category"}),
    "polars": polars_of,
    "polars categories": lambda table: polars_of(table).cast({"category": pytest.importorskip("polars").Categorical}),
    "stream": Stream,
    "reader": lambda table: table.to_reader(max_chunksize=2),
}


@pytest.fixture(scope="module")
def documents():
    return pa.table({"id": [7, 7, 8, 9, 9], "text": TEXTS, "category": ["a", "a", "b", "b", "b"]})


@pytest.fixture(scope="module")
def cut(tiny_llama):
    return WindowDocuments(tokenizer=str(tiny_llama), window_tokens=48)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_of_every_kind_give_the_windows_and_scores_of_a_dataset(documents, cut, tiny_llama, kind):
    scorer = LongAttnScorer(str(tiny_llama), per_head=True)
    dataset = Dataset(documents)
    windows = dataset.map(cut, batched=True, remove_columns=dataset.column_names)
    scored = windows.map(scorer, batched=True)
    made = on_arrow(cut, batch_size=2)(KINDS[kind](documents))
    types = windows.features.arrow_schema
    assert {field.name: field.type for field in made.schema} == {name: types.field(name).type for name in types.names}
    assert made.to_pydict() == windows.to_dict()
    # five windows make a table that each kind can be made of
    result = on_arrow(scorer, batch_size=2)(KINDS[kind](made.slice(0, 5)))
    assert isinstance(result, pa.Table) and [*result.column_names[-5:]] == [*scored.column_names[-5:]]
    assert result.to_pydict() == scored.select(range(5)).to_dict()


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_have_the_columns_and_types_of_many(documents, cut, tiny_llama, rows):
    scorer = LongAttnScorer(str(tiny_llama), on_error="skip")
    windows = on_arrow(cut)(documents)
    assert on_arrow(cut)(documents.slice(0, rows)).schema == windows.schema
    assert on_arrow(scorer)(windows.slice(0, rows)).schema == on_arrow(scorer)(windows).schema


def test_other_columns_stay_as_they_are_whatever_their_type(documents):
    labels = pa.DictionaryArray.from_arrays(pa.array([0, 0, 1, 1, 0]), ["x", "y"])
    table = documents.append_column("label", labels).append_column("meta", pa.array([{"a": [n]} for n in range(5)]))
    scored = on_arrow(GzipRatio(), batch_size=2)(table)
    assert scored.select(table.column_names) == table
    assert scored.column_names == [*table.column_names, "gzip_ratio"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int32()),
        pa.large_list(pa.int64()),
        pa.list_view(pa.int32()),
        pa.large_list_view(pa.uint16()),
        pa.list_(pa.int32(), 3),
    ],
    ids=str,
)
def test_ids_are_views_of_the_tables_own_memory(kind):
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9]] if pa.types.is_fixed_size_list(kind) else [[1], [2, 3, 4], [5, 6]]
    column = pa.array(rows, kind)
    values = columns_of(pa.table({"ids": column}).slice(1))["ids"]
    assert [value.tolist() for value in values] == rows[1:]
    whole = column.values.to_numpy()
    assert all(np.shares_memory(value, whole) for value in values)


def test_columns_that_nothing_asks_for_are_not_read():
    class Unreadable(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.binary(), "unreadable")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type, serialized):
            return cls()

        def __arrow_ext_scalar_class__(self):
            raise AssertionError("this column was read")

    pixels = pa.ExtensionArray.from_storage(Unreadable(), pa.array([b"1", b"2"]))
    scored = on_arrow(GzipRatio())(pa.table({"text": TEXTS[:2], "pixels": pixels}))
    assert scored.column_names == ["text", "pixels", "gzip_ratio"]


def test_what_says_nothing_of_rows_and_what_is_no_table_are_refused(documents):
    with pytest.raises(ValueError, match="takes a scorer or WindowDocuments, .* got function"):
        on_arrow(lambda table: table)
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        on_arrow(GzipRatio(), batch_size=0)
    with pytest.raises(ValueError, match="Rows come as list"):
        on_arrow(GzipRatio())([{"text": "a"}])
    with pytest.raises(ValueError, match="Rows come as dict"):
        on_arrow(GzipRatio())({"text": ["a"]})
    with pytest.raises(ValueError, match="No column 'text' to score; the columns are id, category"):
        on_arrow(GzipRatio())(documents.drop_columns(["text"]))


def test_a_function_of_tables_pickles_with_its_transform(documents):
    function = pickle.loads(pickle.dumps(on_arrow(GzipRatio(), batch_size=3)))
    assert function == on_arrow(GzipRatio(), batch_size=3)
    assert function(documents) == on_arrow(GzipRatio())(documents)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view()], ids=str)
def test_texts_of_more_than_a_plain_string_column_holds_are_taken_in_pieces(monkeypatch, kind):
    monkeypatch.setattr("longattn_hf.rows._STRING_BYTES", 500)
    table = pa.table({"text": pa.array([*TEXTS, None], kind)})
    plain = plain_texts(table.slice(1))
    assert plain["text"].type == pa.string() and plain["text"].to_pylist() == [*TEXTS[1:], None]
    assert plain["text"].num_chunks > 1 and max(chunk.nbytes for chunk in plain["text"].chunks) < 500
