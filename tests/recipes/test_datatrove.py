"""The recipe for datatrove: its shards are whole after a kill, and what they hold is what `map` makes."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from longattn_hf import LongAttnScorer, WindowDocuments

pytest.importorskip("datatrove", reason="no datatrove: pip install datatrove orjson")

ROOT = Path(__file__).parents[2]
WORDS = "the far tokens of a long document matter more than you think 日本語 😀 naïve".split()


@pytest.fixture
def documents(tmp_path):
    rows = [
        {"id": f"d{i}", "text": " ".join(random.Random(i).choices(WORDS, k=1 + 9 * i)), "category": f"c{i % 2}"}
        for i in range(40)
    ]
    # one task finds a first document without a category
    rows[1].pop("category")
    (tmp_path / "docs").mkdir()
    for part in range(2):
        lines = "".join(json.dumps(row) + "\n" for row in rows[part::2])
        (tmp_path / "docs" / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    return rows


def start(documents, output, model):
    command = [sys.executable, "recipes/datatrove_pipeline.py", str(documents), str(output), str(model), "32", "2"]
    # a pipe would be held open by whatever datatrove starts
    with open(output.with_suffix(".log"), "w") as log:
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def finish(documents, output, model):
    assert start(documents, output, model).wait(timeout=120) == 0, output.with_suffix(".log").read_text()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.slow
def test_steps_of_datatrove_write_the_windows_and_scores_of_map_and_a_kill_leaves_whole_shards(
    documents, tiny_llama, tmp_path
):
    finish(tmp_path / "docs", tmp_path / "whole", tiny_llama)
    whole = contents(tmp_path / "whole")
    tables = [pq.read_table(pa.BufferReader(content)) for content in whole.values()]
    scored = pa.concat_tables(tables).sort_by("id").to_pylist()
    cut = WindowDocuments(tokenizer=str(tiny_llama), window_tokens=32)
    rows = Dataset.from_list([{"category": None} | row for row in documents])
    plain = rows.map(cut, batched=True, remove_columns=rows.column_names)
    plain = plain.map(LongAttnScorer(str(tiny_llama)), batched=True).sort("id")
    assert len(scored) == len(plain) > 256
    assert [{name: row[name] for name in plain.column_names} for row in scored] == plain.to_list()

    child = start(tmp_path / "docs", tmp_path / "out", tiny_llama)
    while not contents(tmp_path / "out"):
        assert child.poll() is None
        time.sleep(0.002)
    child.kill()
    child.wait()
    left = contents(tmp_path / "out")
    assert left and left.items() <= whole.items()
    stamp = (tmp_path / "out" / next(iter(left))).stat().st_mtime_ns
    finish(tmp_path / "docs", tmp_path / "out", tiny_llama)
    assert contents(tmp_path / "out") == whole
    assert (tmp_path / "out" / next(iter(left))).stat().st_mtime_ns == stamp
