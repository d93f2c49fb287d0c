"""Rows and files that cannot be read: counted with their reason and left out, or named with file and row."""

import gzip
import json
from secrets import token_hex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.run import build

TEXT = "far tokens of a long document matter more than you think " * 4


@pytest.fixture
def run(tiny_llama, tmp_path):
    def run_build(*sources, **settings):
        common = {"name": "odd", "model": str(tiny_llama), "window_tokens": 16, "fraction": 1.0, "scorers": ["length"]}
        config = common | {"output_dir": str(tmp_path / "out"), "documents_per_shard": 3} | settings
        (tmp_path / "config.yaml").write_text(
            json.dumps(config | {"sources": [{"category": "c"} | s for s in sources]})
        )
        return build(load_config(tmp_path / "config.yaml"))

    return run_build


def lines(count, start=0):
    return [json.dumps({"id": number, "text": TEXT}) for number in range(start, start + count)]


PACKED = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress, "": bytes}


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_damaged_file_ends_where_it_breaks_and_the_next_is_read(run, tmp_path, ending):
    # hardly compressible, so that half of the file is about half of its rows
    rows = [json.loads(line) | {"note": token_hex(5000)} for line in lines(200)]
    whole = ("\n".join(map(json.dumps, rows)) + "\n").encode()
    packed = PACKED[ending](whole)
    (tmp_path / f"a.jsonl{ending}").write_bytes(packed[: len(packed) // 2])
    (tmp_path / f"b.jsonl{ending}").write_bytes(PACKED[ending](("\n".join(lines(5, 9000)) + "\n").encode()))
    source = {"path": "json", "data_files": str(tmp_path / f"*.jsonl{ending}"), "json_lines": True, "columns": ["id"]}
    built = run(source, documents_per_shard=50)
    facts, kept = built.categories["c"], set(built.load("c")["doc_id"])
    (reason,) = facts.skipped
    assert reason.startswith("unreadable, as the rest of its file") and facts.skipped[reason] == 1
    assert {str(number) for number in range(9000, 9005)} <= kept and 50 < len(kept) == facts.documents - 1 < 205
    with pytest.raises(ValueError, match=rf"a.jsonl{ending} cannot be read from row \d+ on: .*on_error='skip'"):
        run(source, on_error="raise", output_dir=str(tmp_path / "other"))


def test_a_parquet_file_whose_page_is_damaged_is_left_where_it_breaks(run, tmp_path):
    table = pa.table({"id": list(range(60)), "text": [f"{n} {TEXT}" for n in range(60)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20, compression="zstd")
    place = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(1)
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    at = place.data_page_offset
    damaged[at : at + 40] = bytes(40)
    (tmp_path / "a.parquet").write_bytes(damaged)
    pq.write_table(table.slice(0, 7), tmp_path / "b.parquet")
    facts = run({"path": "parquet", "data_files": str(tmp_path / "*.parquet")}).categories["c"]
    # how far a damaged file is read before it breaks is the reader's affair
    assert sum(facts.skipped.values()) == 1 and 8 <= facts.documents <= 28 and facts.kept_documents >= 7


def test_each_row_that_is_no_document_is_counted_with_its_reason(run, tmp_path):
    odd = ["", "{cut", "[1]", '{"id": 1}', '{"text": null}', '{"text": 7}', '{"text": ""}', '{"text": "\\ud800"}']
    (tmp_path / "a.jsonl").write_text("\n".join([*lines(2), *odd, *lines(2, 2)]) + "\n")
    source = {"path": "json", "data_files": str(tmp_path / "a.jsonl"), "json_lines": True}
    assert run(source).categories["c"].skipped == {
        "blank line": 1,
        "damaged JSON": 1,
        "JSON, but no object (list)": 1,
        "without the column 'text'": 1,
        "missing": 1,
        "not text": 1,
        "empty": 1,
        "not Unicode, by a lone surrogate": 1,
    }
    with pytest.raises(ValueError, match=r"a.jsonl, row 3, cannot be read as a document: blank line"):
        run(source, on_error="raise", output_dir=str(tmp_path / "other"))


def test_pages_are_joined_by_what_is_said_and_refused_otherwise(run, tmp_path):
    pages = [TEXT, "second page", TEXT]
    pq.write_table(pa.table({"text": [pages, None, [TEXT]]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": pages}) + "\n" + json.dumps({"text": [1]}) + "\n")
    packed = {"path": "parquet", "data_files": str(tmp_path / "a.parquet")}
    with pytest.raises(ValueError, match="is a list of texts: say with join"):
        run(packed, output_dir=str(tmp_path / "other"))
    as_lines = {"path": "json", "data_files": str(tmp_path / "a.jsonl"), "json_lines": True, "join": " | "}
    result = run(packed | {"join": " | "}, as_lines)
    whole = " | ".join(pages)
    for window in result.load("c"):
        assert window["text"] in whole and whole[window["start_char"] : window["end_char"]] == window["text"]
    assert result.categories["c"].skipped == {"missing": 1, "not a list of texts": 1}
    assert any("|" in text for text in result.load("c")["text"])


def test_documents_longer_than_the_limit_are_left_out_by_it(run, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join([*lines(2), json.dumps({"text": TEXT * 50})]) + "\n")
    source = {"path": "json", "data_files": str(tmp_path / "a.jsonl"), "json_lines": True}
    facts = run(source, max_document_characters=len(TEXT)).categories["c"]
    assert facts.skipped == {f"longer than max_document_characters ({len(TEXT)})": 1} and facts.documents == 3


def test_columns_whose_type_changes_from_row_to_row_stop_nothing(run, tmp_path):
    rows = [
        {"id": 1, "text": TEXT, "meta": {"a": 1}},
        {"id": "two", "text": TEXT, "meta": {"b": "x"}},
        {"id": None, "text": TEXT, "meta": [1]},
        {"id": 4.5, "text": TEXT},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": "json", "data_files": str(tmp_path / "a.jsonl"), "json_lines": True, "columns": ["id", "meta"]}
    result = run(source)
    assert result.categories["c"].skipped == {} and set(result.load("c")["doc_id"]) >= {"1", "two", "4.5"}
    assert {'{"a": 1}', '{"b": "x"}', "[1]", None} == set(result.load("c")["meta"])
