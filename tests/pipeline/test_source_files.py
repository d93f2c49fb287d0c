"""Which files of a source are read, and how, where a format's own default would be a surprise."""

import json
import logging
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn_hf.pipeline.settings import check_settings
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.sources import identify_sources, open_source

ROWS = [{"id": f"00{number}", "text": f"The far tokens of {number} matter.\nThey do."} for number in range(3)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(**settings):
    return [row["text"] for row in open_source(SourceConfig(category="c", **settings)).stream]


def test_a_file_of_text_is_a_document_in_a_folder_too(tmp_path):
    for number, row in enumerate(ROWS):
        (tmp_path / f"{number}.txt").write_text(row["text"])
    expected = [row["text"] for row in ROWS]
    assert sorted(read(path=str(tmp_path))) == expected
    assert sorted(read(path="text", data_files=str(tmp_path / "*.txt"))) == expected


def test_a_format_without_files_is_refused_and_does_not_read_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "secret.env").write_text("TOKEN=abc\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path='text' is a format, and nothing says which files"):
        read(path="text")
    with pytest.raises(ValueError, match="finds no files|No such file|Unable to find"):
        read(path="json", data_files=f"{tmp_path}/a::b/*.jsonl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"path": ""}, "path is empty"), ({"path": "json", "data_files": []}, "data_files without a file")],
)
def test_settings_that_name_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_settings(SourceConfig, {"category": "c"} | settings, "a source")


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_file_that_two_patterns_name_is_read_once(tmp_path, json_lines):
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "*.jsonl")]
    assert read(path="json", data_files=files, json_lines=json_lines) == [row["text"] for row in ROWS]


def test_files_that_datasets_leaves_out_by_their_names_are_named(tmp_path, caplog):
    for name in ("README.md", "b.md", "__x/c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with caplog.at_level(logging.WARNING):
        assert read(path="text", data_files=str(tmp_path / "**/*.md")) == ["b.md"]
    assert "README.md" in caplog.text and "__x/c.md" in caplog.text and "b.md" not in caplog.text
    # a build names its sources before it opens them, and says this once
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        config = SourceConfig(category="c", path="text", data_files=str(tmp_path / "**/*.md"))
        assert identify_sources([config], tmp_path / "pins")
    assert not caplog.text
    caplog.clear()
    named = [str(tmp_path / "README.md"), str(tmp_path / "b.md")]
    with caplog.at_level(logging.WARNING):
        assert sorted(read(path="text", data_files=named)) == ["README.md", "b.md"]
    assert not caplog.text


def test_a_parquet_file_without_rows_is_whole(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "b.parquet")
    assert read(path="parquet", data_files=str(tmp_path / "*.parquet")) == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", ""), ("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "id,text\n")]
)
def test_a_file_without_rows_has_no_documents(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    kind = "csv" if name.endswith("csv") else "json"
    assert read(path=kind, data_files=str(tmp_path / name)) == []


def test_an_id_of_a_csv_file_is_what_stands_there(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n007,far\n7,near\n,none\n")
    source = open_source(SourceConfig(category="c", path="csv", data_files=str(tmp_path / "a.csv")))
    assert [row["id"] for row in source.stream] == ["007", "7", None]


def test_a_local_file_is_known_by_its_size_too(tmp_path):
    path, config = tmp_path / "a.jsonl", SourceConfig(category="c", path="json", data_files=str(tmp_path / "a.jsonl"))
    found = []
    for rows in (ROWS, ROWS[:2]):
        path.write_text(lines(rows))
        # as a copy that keeps the time
        os.utime(path, (1, 1))
        found.append((open_source(config).identity, identify_sources([config], tmp_path / "pins")))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]
