"""What documents' own columns are kept as: plain types, the same in all sources, and nothing lost in them."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value, load_dataset

from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.run import build
from longattn_hf.pipeline.source_types import agree, as_text, convert
from tests.support.recipes import text, write_recipe

LABEL = ClassLabel(names=["MIT", "GPL"])


@pytest.mark.parametrize(
    ("kinds", "kept_as"),
    [
        ([Value("int32"), Value("int64")], Value("int64")),
        ([Value("uint8"), Value("int8")], Value("int16")),
        # there is no whole number that holds both
        ([Value("uint64"), Value("int8")], Value("string")),
        # 2^53 + 1 is no float64
        ([Value("int64"), Value("float64")], Value("string")),
        ([Value("float32"), Value("float64")], Value("float64")),
        ([Value("bool"), Value("int8")], Value("string")),
        ([Value("string_view"), Value("large_string"), Value("string")], Value("string")),
        ([LABEL, Value("string")], Value("string")),
        ([Value("null"), Value("int64")], Value("string")),
        ([Value("null")], Value("string")),
        ([Value("timestamp[s]"), Value("timestamp[s, tz=UTC]")], Value("string")),
        ([List(Value("int32")), LargeList(Value("int32"))], List(Value("int32"))),
        ([List(Value("large_string"))], List(Value("string"))),
        ([{"a": Value("int64")}, {"a": Value("string")}], Value("string")),
    ],
    ids=str,
)
def test_sources_agree_on_a_type_that_holds_the_values_of_all(kinds, kept_as):
    assert agree([Features(x=kind) for kind in kinds]) == {"x": kept_as}
    assert agree([None, *(Features(x=kind) for kind in reversed(kinds))]) == {"x": kept_as}


def test_values_become_those_of_the_type_they_are_kept_as():
    assert convert([0, None, 1, -1], LABEL, Value("string")) == ["MIT", None, "GPL", None]
    nested = {"of": List(LABEL)}
    assert convert([{"of": [1, 0]}, None], nested, {"of": List(Value("string"))}) == [{"of": ["GPL", "MIT"]}, None]
    assert convert([2001, None, 2**60], Value("int64"), Value("string")) == ["2001", None, str(2**60)]
    assert convert(["", "a"], Value("string"), Value("string")) == ["", "a"]
    assert convert([7], Value("int32"), Value("int64")) == [7]
    assert (
        as_text(datetime.date(2001, 2, 3)) == "2001-02-03" and as_text({"a": datetime.time(4)}) == '{"a": "04:00:00"}'
    )


@pytest.fixture
def recipe(tiny_llama, tmp_path):
    documents = {"book": [{"text": "x"}]}
    return write_recipe(
        tmp_path, tiny_llama, documents, name="types", window_tokens=16, scorers=["gzip"], fraction=1.0
    )


def test_sources_whose_columns_differ_in_type_are_built_together(recipe, tmp_path):
    years = {"a": pa.array([2001, 2002, None, 2004]), "b": pa.array(["MMI"] * 4), "c": pa.array([1.5] * 4)}
    counts = {"a": pa.array([1] * 4, pa.int32()), "b": pa.array([2**40] * 4), "c": pa.array([3] * 4, pa.int8())}
    names = {"a": pa.array(["n"] * 4, pa.string_view()), "b": pa.array(["n"] * 4, pa.large_string())}
    sources = []
    for file in "abc":
        # each source numbers its documents alike
        table = pa.table({"text": [text(40, f"{file}{i}") for i in range(4)], "id": list("0123")})
        table = table.append_column("year", years[file]).append_column("count", counts[file])
        if file in names:
            table = table.append_column("name", names[file])
        pq.write_table(table, tmp_path / f"{file}.parquet")
        # the first two are of one category
        category = "book" if file in "ab" else "code"
        sources.append({"category": category, "path": "parquet", "data_files": str(tmp_path / f"{file}.parquet")})
    output = tmp_path / "out"
    result = build(load_config(recipe, {"sources": sources, "output_dir": str(output)}))
    assert [result.categories[name].kept_documents for name in ("book", "code")] == [8, 4]
    for name in ("book", "code", "scores"):
        kept = load_dataset(str(output), name, split="train")
        assert [str(kept.features[n].dtype) for n in ("year", "count")] == ["string", "int64"]
        assert name == "code" or str(kept.features["name"].dtype) == "string"
    assert set(kept["year"]) == {"2001", "2002", None, "2004", "MMI", "1.5"} and set(kept["count"]) == {1, 2**40, 3}


def test_labels_are_kept_by_name_and_what_a_document_does_not_say_is_what_the_settings_say(recipe, tmp_path):
    columns = {"text": [text(40, i) for i in range(4)], "license": [0, None, 1, 0], "shelf": [1, 0, 1, 0]}
    features = Features(text=Value("string"), license=LABEL, shelf=ClassLabel(names=["low", "high"]))
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "a.parquet")
    source = {"category": "book", "path": "parquet", "data_files": str(tmp_path / "a.parquet"), "license": "CC0"}
    result = build(load_config(recipe, {"sources": [source], "output_dir": str(tmp_path / "out")}))
    assert {one.license: one.documents for one in result.report.sources} == {"MIT": 2, "GPL": 1, "CC0": 1}
    kept = load_dataset(str(tmp_path / "out"), "book", split="train")
    assert set(kept["license"]) == {"MIT", "GPL", "CC0"} and set(kept["shelf"]) == {"low", "high"}
