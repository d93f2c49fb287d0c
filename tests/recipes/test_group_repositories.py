"""Source files joined by repository, wherever their rows lie."""

import gzip
import json

import pytest
from datasets import load_dataset

from longattn_hf.pipeline import build, load_config
from recipes.group_repositories import main
from tests.support.recipes import text

ROWS = [
    ("me/b", "src/z.py", "MIT", "z = 1\n"),
    ("me/a", "b.py", "MIT", "import a\n\n\n"),
    ("me/b", "README.md", "Apache-2.0", "# b"),
    ("me/a", "a.py", "MIT", "a = 'é'"),
    ("me/b", "src/a.py", "MIT", "a = 2\n"),
    # twice, as where a corpus and its subset are taken
    ("me/a", "a.py", "MIT", "a = 'é'"),
]
EXPECTED = {
    "me/a": ("a.py\n\na = 'é'\n\nb.py\n\nimport a\n", "MIT", 2),
    "me/b": ("README.md\n\n# b\n\nsrc/a.py\n\na = 2\n\nsrc/z.py\n\nz = 1\n", "Apache-2.0 AND MIT", 3),
}


def write_rows(folder, rows):
    folder.mkdir()
    lines = [
        json.dumps({"text": t, "metadata": {"repo_name": r, "path": p, "license": licence, "n": [n, str(n)][n % 2]}})
        for n, (r, p, licence, t) in enumerate(rows)
    ]
    for part in range(2):
        (folder / f"{part}.json.gz").write_bytes(gzip.compress("\n".join(lines[part::2]).encode()))
    return folder


def run(source, output, *words):
    main(["--path", str(source), "--output_dir", str(output), "--buckets", "3", *words])
    files = sorted(output.glob("*.parquet"))
    assert [*output.iterdir()] and not (output / "buckets").exists() and len(files) == 3
    return [file.read_bytes() for file in files]


def test_files_are_joined_in_the_order_of_their_paths_whatever_that_of_the_rows(tmp_path):
    first = run(write_rows(tmp_path / "one", ROWS), tmp_path / "out-one")
    assert first == run(write_rows(tmp_path / "two", ROWS[::-1]), tmp_path / "out-two")
    rows = load_dataset("parquet", data_files=str(tmp_path / "out-one" / "*.parquet"), split="train")
    assert {row["id"]: (row["text"], row["license"], row["files"]) for row in rows} == EXPECTED


def test_rows_that_name_no_repository_are_counted_and_output_is_never_mixed(tmp_path, capsys):
    source = write_rows(
        tmp_path / "rows",
        [*ROWS, (None, "a.py", "MIT", "x"), ("me/c", "c.py", "MIT", ""), ("me/a", "half.py", "MIT", "\ud83d")],
    )
    with (source / "2.json.gz").open("wb") as file:
        file.write(gzip.compress(b'{"text": "no metadata"}\n{"text": "x", "metadata": "words"}\n{damaged'))
    run(source, tmp_path / "out")
    assert "2 repositories; 6 rows without text, repo_name or path left out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(source, tmp_path / "out")
    assert "holds repositories already" in capsys.readouterr().err


def test_licences_of_the_rows_own_and_a_header_of_choice(tmp_path):
    source = tmp_path / "rows"
    source.mkdir()
    row = {"text": "x", "metadata": {"repo_name": "r", "path": "p"}, "license": "BSD-3-Clause"}
    (source / "0.jsonl").write_text(json.dumps(row))
    run(source, tmp_path / "out", "--data_files", "*.jsonl", "--header", "// {path}: {}\n")
    rows = load_dataset("parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train")
    assert rows[0] == {"id": "r", "text": "// p: {}\nx\n", "license": "BSD-3-Clause", "files": 1}


def test_the_configuration_of_repositories_builds_from_them(tmp_path, tiny_llama, monkeypatch):
    rows = [(f"me/{n // 4}", f"{n}.py", ["MIT", "CC0-1.0"][n % 2], text(30, n)) for n in range(16)]
    run(write_rows(tmp_path / "rows", rows), tmp_path / "out" / "repositories")
    monkeypatch.chdir(tmp_path)
    small = {"model": str(tiny_llama), "window_tokens": 32, "min_distance": None, "scorers": ["length"], "gate": {}}
    config = load_config("code_repositories", small | {"fraction": 0.5})
    kept = build(config).load("code")
    assert len(kept) and {*kept["license"]} == {"CC0-1.0 AND MIT"}
    assert {*kept["doc_id"]} <= {f"me/{n}" for n in range(4)}
