"""Names that `datasets` would read as patterns: a file that is called so is meant."""

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from longattn_hf.__main__ import main
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.run import build
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.sources import open_source
from tests.support.recipes import text, write_recipe


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in [v1]" / "part[0-9]"
    folder.mkdir(parents=True)
    Dataset.from_dict({"text": ["one", "two"]}).to_parquet(folder / "rows[1].parquet")
    (folder / "lines.jsonl").write_text('{"text": "three"}\n')
    (folder / "plain.txt").write_text("four")
    return folder


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ({"path": "parquet", "data_files": "{}/rows[1].parquet"}, ["one", "two"]),
        ({"path": "json", "data_files": ["{}/lines.jsonl"]}, ["three"]),
        ({"path": "json", "data_files": "{}/lines.jsonl", "json_lines": True}, ["three"]),
        ({"path": "text", "data_files": "{}/plain.txt"}, ["four"]),
        ({"path": "parquet", "data_files": "{}/rows*.parquet"}, ["one", "two"]),
        ({"path": "text", "data_files": "{}/pl*.t?t"}, ["four"]),
        ({"path": "{}", "data_files": "lines.jsonl"}, ["three"]),
        ({"path": "{}", "data_files": "*.jsonl"}, ["three"]),
        ({"path": "{}", "data_files": "lines.jsonl", "json_lines": True}, ["three"]),
    ],
)
def test_a_source_reads_files_and_folders_by_their_own_names(folder, source, texts):
    def named(value):
        return [named(one) for one in value] if isinstance(value, list) else value.replace("{}", str(folder))

    named_source = {name: value if value is True else named(value) for name, value in source.items()}
    stream = open_source(SourceConfig(category="c", **named_source)).stream
    assert [row["text"] for row in stream] == texts


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ({"path": "parquet", "data_files": "part[0-9]/rows[1].parquet"}, ["one", "two"]),
        ({"path": "json", "data_files": ["plain/*.jsonl"]}, ["five"]),
        ({"path": "json", "data_files": "plain/lines.jsonl", "json_lines": True}, ["five"]),
        ({"path": "text", "data_files": "text/four.txt"}, ["six"]),
        ({"path": "plain", "data_files": "lines.jsonl"}, ["five"]),
        ({"path": "./plain", "data_files": "*.jsonl", "json_lines": True}, ["five"]),
    ],
)
def test_a_source_reads_relative_names_in_a_working_directory_that_is_called_like_a_pattern(
    folder, monkeypatch, source, texts
):
    monkeypatch.chdir(folder.parent)
    for name, row in {"plain/lines.jsonl": '{"text": "five"}', "text/four.txt": "six"}.items():
        (folder.parent / name).parent.mkdir()
        (folder.parent / name).write_text(row)
    assert [row["text"] for row in open_source(SourceConfig(category="c", **source)).stream] == texts
    with pytest.raises(ValueError, match="reads as a pattern.*name them with data_files"):
        open_source(SourceConfig(category="c", path="plain"))


def test_a_pattern_is_still_one(folder):
    for other in (1, 2):
        Dataset.from_dict({"text": [str(other)]}).to_parquet(folder.parent / f"more{other}.parquet")
    (folder.parent / "more3.parquet").write_bytes((folder.parent / "more1.parquet").read_bytes())
    pattern = f"{folder.parent.parent}/*/more[1-2].parquet"
    source = SourceConfig(category="c", path="parquet", data_files=pattern)
    assert sorted(row["text"] for row in open_source(source).stream) == ["1", "2"]


def test_a_folder_whose_files_are_to_be_looked_for_is_refused_with_the_reason(folder):
    for source in ({"path": str(folder)}, {"path": "parquet", "data_dir": str(folder)}):
        with pytest.raises(ValueError, match="reads as a pattern.*name them with data_files"):
            open_source(SourceConfig(category="c", **source))


def test_files_given_to_a_program_are_read_by_their_own_names(folder, capsys):
    scored = folder / "scored[2].parquet"
    main(["score", str(folder / "rows[1].parquet"), "--scorer", "length", "-o", str(scored)])
    main(["select", str(scored), "--score", "length", "--fraction", "1", "-o", str(folder / "kept[3].parquet")])
    assert pq.read_table(folder / "kept[3].parquet")["text"].to_pylist() == ["one", "two"]


def test_relative_files_given_to_a_program_are_found_in_such_a_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Dataset.from_dict({"text": ["one", "two"]}).to_parquet("plain.parquet")
    for file in ("plain.parquet", "rows[1].parquet"):
        main(["score", file, "--scorer", "length", "-o", "scored.parquet"])
        main(["select", "scored.parquet", "--score", "length", "--fraction", "1", "-o", "kept.parquet"])
        assert pq.read_table("kept.parquet")["text"].to_pylist() == ["one", "two"]


def test_a_build_there_loads_what_it_keeps(folder, tiny_llama):
    recipe = write_recipe(folder, tiny_llama, {"book": [{"text": text(90, i)} for i in range(4)]}, scorers=["length"])
    result = build(load_config(recipe, {"output_dir": str(folder / "out")}))
    facts = result.categories["book"]
    assert result.load("book").num_rows == facts.kept_windows > 0 and result.load("scores").num_rows == facts.windows
    with pytest.raises(ValueError, match="no category 'bok'; there are"):
        result.load("bok")
