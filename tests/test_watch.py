import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from longattn_hf import LongAttnScorer, WindowDocuments
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.heartbeat import Heartbeat, Progress, read_heartbeats
from longattn_hf.pipeline.processes import Process
from longattn_hf.pipeline.scoring import score_windows
from longattn_hf.pipeline.shards import ScoredShards
from longattn_hf.pipeline.sources import Source
from longattn_hf.pipeline.stages import window_sources, windowed_shards
from longattn_hf.watch import PATIENCE, describe, main, read_new_scores, time_left, trouble

HOST, NOW = "machine-a", 1_000_000.0


def beat(process=0, processes=2, **facts):
    known = dict(stage="scores", unit="windows", total=100, done=40, started=NOW - 90, beat=NOW - 10, longest=3.0)
    known |= dict(host=HOST, pid=os.getpid())
    return Heartbeat(process=process, processes=processes, **(known | facts))


def test_rate_and_time_left_are_those_of_the_work_done():
    assert time_left(beat()) == 60 * 80 / 40
    assert time_left(beat(done=0)) is None and time_left(beat(done=100)) == time_left(beat(ended=True)) == 0
    beats = [beat(), beat(1, done=10, beat=NOW - 50, started=NOW - 60)]
    lines = describe(beats, {}, now=NOW, host=HOST).splitlines()
    assert (
        "40 of 100 windows" in lines[1] and "0.50/s" in lines[1] and "2 min 0 s" in lines[1] and "10 s ago" in lines[1]
    )
    # the stage ends with its slowest process
    assert lines[3] == "scores: 50 of 200 windows by 2 processes, 2 min 0 s left"
    assert describe([], {}, now=NOW, host=HOST) == "No process has given a sign of life yet."
    unknown = describe([beat(done=0)], {}, now=NOW, host=HOST)
    assert "unknown left" in unknown


def test_a_silent_process_is_named_and_a_slow_one_is_not():
    assert trouble(beat(beat=NOW - PATIENCE + 1), now=NOW, host=HOST) == ""
    assert "STALLED" in trouble(beat(beat=NOW - PATIENCE - 1), now=NOW, host=HOST)
    assert trouble(beat(beat=NOW - 400, longest=100), now=NOW, host=HOST) == ""
    assert "STALLED" in trouble(beat(beat=NOW - 501, longest=100), now=NOW, host=HOST)
    assert trouble(beat(beat=NOW - 9999, ended=True), now=NOW, host=HOST) == "through"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert f"DIED: process {gone.pid}" in trouble(beat(pid=gone.pid), now=NOW, host=HOST)
    # of another machine's processes only the silence is known
    assert trouble(beat(pid=gone.pid, host="machine-b"), now=NOW, host=HOST) == ""
    named = describe([beat(), beat(1, beat=NOW - 500)], {}, now=NOW, host=HOST).splitlines()
    assert "STALLED" not in named[1] and named[2].startswith("1 ") and f"process {os.getpid()} on {HOST}" in named[2]


def test_heartbeats_of_an_earlier_run_with_more_processes_do_not_count(tmp_path):
    for index in range(3):
        Progress(tmp_path, process=index, processes=3, stage="scores", total=5, unit="windows").close()
    again = Progress(tmp_path, process=0, processes=2, stage="windows", total=9, unit="parts")
    again.update(4)
    again.close()
    (tmp_path / "9.json").write_text("{half")
    found = read_heartbeats(tmp_path)
    assert [(one.process, one.stage, one.done) for one in found] == [(0, "windows", 4), (1, "scores", 0)]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_or_read_only_folder_stops_no_work(tmp_path):
    (tmp_path / "processes").write_text("a file where the folder should be")
    progress = Progress(tmp_path / "processes", process=0, processes=1, stage="scores", total=5, unit="windows")
    progress.update(5)
    progress.close()
    assert read_heartbeats(tmp_path / "processes") == []


def test_a_build_leaves_heartbeats_that_add_up(tmp_path, tiny_llama, capsys):
    transform = WindowDocuments(tokenizer=str(tiny_llama), window_tokens=16)
    scorer = LongAttnScorer(str(tiny_llama), device="cpu", min_distance=4)
    rows = [{"text": "The far tokens matter. " * 6} for _ in range(6)]
    stream = Dataset.from_list(rows).to_iterable_dataset(num_shards=2)
    sources = [Source(category="book\x1b[31m", stream=stream, identity="six")]
    folder = BuildFolder(tmp_path)
    for index in range(2):
        window_sources(
            sources,
            transform,
            folder,
            documents_per_shard=1,
            process=Process(index, 2),
        )
    beats = read_heartbeats(folder.heartbeats)
    assert [(one.stage, one.done, one.total, one.ended) for one in beats] == [("windows", 1, 1, True)] * 2
    shards = ScoredShards.gather(folder, windowed_shards(sources, folder.windows))
    done = [score_windows(shards, {"longattn": scorer}, process=Process(index, 2)) for index in range(2)]
    beats = read_heartbeats(folder.heartbeats)
    assert [(one.done, one.total, one.unit) for one in beats] == [(n, n, "windows") for n in done]
    main([str(tmp_path), "--once"])
    shown = capsys.readouterr().out
    assert f"scores: {sum(done)} of {sum(done)} windows by 2 processes, 0 s left" in shown
    assert f"{sum(done)} windows" in shown.splitlines()[-1] and "\x1b" not in shown


def test_histograms_grow_with_the_shards_and_a_damaged_one_is_left_out(tmp_path):
    scores, known = tmp_path / "scores", {}
    for number, values in enumerate(([0.1, 0.1, 0.2], [0.3, None])):
        path = scores / "book" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"dependency_strength": pa.array(values, pa.float64())}), path)
        read_new_scores(scores, known)
    (scores / "book" / "2.parquet").write_bytes(b"PAR1 half of it")
    read_new_scores(scores, known)
    assert sorted(map(len, known.values())) == [1, 3]
    lines = describe([beat()], known, now=NOW, host=HOST).splitlines()
    assert lines[-2] == "dependency strength so far, from 0.100 to 0.300"
    # eight bins are the fewest
    bars = lines[-1].removeprefix("book  ")[:8]
    assert [at for at, bar in enumerate(bars) if bar != " "] == [0, 4, 7] and bars[0] == "█"
    assert lines[-1].endswith(f"mean {np.mean([0.1, 0.1, 0.2, 0.3]):.3f}, 4 windows")
    same = {Path("a/0"): np.full(3, 0.5)}
    assert describe([beat()], same, now=NOW, host=HOST).endswith("mean 0.500, 3 windows")


def test_a_folder_without_a_build_is_named(tmp_path):
    with pytest.raises(SystemExit, match="holds no build"):
        main([str(tmp_path)])
    (tmp_path / "work" / "processes").mkdir(parents=True)
    (tmp_path / "work" / "finished.json").write_text("{}")
    (tmp_path / "work" / "processes" / "0.json").write_text(json.dumps(asdict(beat(ended=True))))
    main([str(tmp_path)])
