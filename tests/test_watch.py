import json
import os
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from longattn_hf import LongAttnScorer, WindowDocuments
from longattn_hf.files import write_record
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.heartbeat import Heartbeat, Progress, read_heartbeats
from longattn_hf.pipeline.processes import Process
from longattn_hf.pipeline.scoring import score_windows
from longattn_hf.pipeline.shards import ScoredShards
from longattn_hf.pipeline.so_far import ScoresSoFar
from longattn_hf.pipeline.sources import Source
from longattn_hf.pipeline.stages import window_sources, windowed_shards
from longattn_hf.watch import PATIENCE, describe, histograms, judge, main, progress, read_new_scores
from tests.support.killed_build import build_and_kill
from tests.support.recipes import text, write_recipe

HOST, NOW = "machine-a", 1_000_000.0


def width_of(text):
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def beat(process=0, processes=2, **facts):
    known = dict(stage="scores", unit="windows", total=100, done=40, started=NOW - 90, beat=NOW - 10, longest=3.0)
    known |= dict(host=HOST, pid=os.getpid())
    return Heartbeat(process=process, processes=processes, **(known | facts))


def test_rate_and_time_left_are_those_of_the_work_done():
    assert beat().seconds_left == 60 * 80 / 40 and beat().rate == 0.5
    assert beat(done=0).seconds_left is None and beat(done=100).seconds_left == beat(ended=True).seconds_left == 0
    beats = [beat(), beat(1, done=10, beat=NOW - 50, started=NOW - 60)]
    lines = describe(beats, now=NOW, host=HOST).splitlines()
    assert all(part in lines[1] for part in ("40 (40%)", "0.50/s", "2 min 0 s", "10 s", "at work"))
    # the stage ends with its slowest process
    done_at = time.strftime("%H:%M", time.localtime(NOW + 120))
    assert lines[3] == f"scores: 50 of 200 windows by 2 processes, 2 min 0 s left, done at {done_at}"
    assert describe([], now=NOW, host=HOST) == "No process has given a sign of life yet."
    assert "unknown left" in describe([beat(done=0)], now=NOW, host=HOST)


def test_a_silent_process_is_named_and_a_slow_one_is_not():
    def state(**facts):
        return judge(beat(**facts), now=NOW, host=HOST)[0]

    assert state(beat=NOW - PATIENCE + 1) == "at work" and state(beat=NOW - PATIENCE - 1) == "STALLED"
    assert state(beat=NOW - 400, longest=100) == "at work" and state(beat=NOW - 501, longest=100) == "STALLED"
    assert state(beat=NOW - 9999, ended=True) == "through"
    named = describe([beat(), beat(1, beat=NOW - 500)], now=NOW, host=HOST).splitlines()
    assert "STALLED" not in named[1] and named[2].endswith("STALLED")
    assert named[3] == f"process 1 ({os.getpid()} on {HOST}) has made no progress for 8 min 20 s."


def test_a_process_that_is_gone_is_dead_until_the_build_is_finished():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for ended in (False, True):
        # also between two stages, while the first process selects
        lines = describe([beat(pid=gone.pid, ended=ended)], now=NOW, host=HOST).splitlines()
        assert lines[1].endswith("DEAD") and lines[2].startswith(f"process 0 ({gone.pid} on {HOST}) has ended before")
        over = describe([beat(pid=gone.pid, ended=ended)], now=NOW, host=HOST, over=True)
        assert over.splitlines()[1].endswith("finished") and over.endswith("The build is finished.")
    # of another machine's processes only the silence is known
    assert judge(beat(pid=gone.pid, host="machine-b"), now=NOW, host=HOST)[0] == "at work"


def test_a_look_fits_eighty_columns_with_large_numbers_and_wide_names(tmp_path):
    large = dict(total=123_456_789, done=98_765_432, started=NOW - 400_000, host="gpu-node-0123.cluster.internal")
    lines = describe([beat(process, **large) for process in (0, 12)], now=NOW, host=HOST).splitlines()
    folder, known = BuildFolder(tmp_path), {}
    for name in ("書籍と論文", "a-category-with-a-name-of-more-than-fifty-characters-in-all"):
        write_scores(folder, "longattn", "dependency_strength", f"{name}/0.parquet", np.linspace(0, 1, 1_000_000))
    read_new_scores(so_far := ScoresSoFar(folder), known)
    lines += progress(so_far)[:-1] + histograms(so_far, known)
    assert [line for line in lines if width_of(line) > 80] == []
    # columns stand below one another whatever the script
    bars = [line.index(next(c for c in line if c in "▁▂▃▄▅▆▇█")) for line in lines[-2:]]
    assert width_of(lines[-2][: bars[0]]) == width_of(lines[-1][: bars[1]])


def test_heartbeats_of_an_earlier_run_with_more_processes_do_not_count(tmp_path):
    for index in range(3):
        Progress(tmp_path, process=index, processes=3, stage="scores", total=5, unit="windows").__exit__(None)
    again = Progress(tmp_path, process=0, processes=2, stage="windows", total=9, unit="parts")
    again.update(4)
    again.__exit__(None)
    (tmp_path / "9.json").write_text("{half")
    found = read_heartbeats(tmp_path)
    assert [(one.process, one.stage, one.done) for one in found] == [(0, "windows", 4), (1, "scores", 0)]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_or_read_only_folder_stops_no_work(tmp_path):
    (tmp_path / "processes").write_text("a file where the folder should be")
    progress = Progress(tmp_path / "processes", process=0, processes=1, stage="scores", total=5, unit="windows")
    progress.update(5)
    progress.__exit__(None)
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


def write_scores(folder, scorer, column, name, values):
    path = folder.scores_by(scorer) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: pa.array(values, pa.float64())}), path)


def test_histograms_grow_with_the_shards_and_a_damaged_one_is_left_out(tmp_path):
    folder, known = BuildFolder(tmp_path), {}
    for number, values in enumerate(([0.1, 0.1, 0.2], [0.3, None])):
        write_scores(folder, "longattn", "dependency_strength", f"a=b/{number}.parquet", values)
        read_new_scores(ScoresSoFar(folder), known)
    (folder.scores / "a=b" / "2.parquet").write_bytes(b"PAR1 half of it")
    read_new_scores(so_far := ScoresSoFar(folder), known)
    assert sorted(map(len, known.values())) == [1, 3]
    title, line = histograms(so_far, known)
    assert title == "dependency strength so far, from 0.1 to 0.3"
    # eight bins are the fewest
    bars = line.removeprefix("a=b  ")[:8]
    assert [at for at, bar in enumerate(bars) if bar != " "] == [0, 4, 7] and bars[0] == "█"
    assert line.endswith(f"mean {np.mean([0.1, 0.1, 0.2, 0.3]):.3f}  4 windows")


def test_a_shard_that_is_written_anew_is_read_anew_and_one_that_is_gone_counts_no_more(tmp_path):
    folder, known = BuildFolder(tmp_path), {}
    write_scores(folder, "gzip", "gzip_ratio", "book/0.parquet", [0.1, 0.2])
    write_scores(folder, "gzip", "gzip_ratio", "book/1.parquet", [0.3])
    read_new_scores(so_far := ScoresSoFar(folder), known)
    (folder.scores_by("gzip") / "book" / "1.parquet").unlink()
    write_scores(folder, "gzip", "gzip_ratio", "book/0.parquet", [0.7, 0.9, None])
    so_far.look()
    read_new_scores(so_far, known)
    assert [values.tolist() for values in known.values()] == [[0.7, 0.9]] and so_far.scored == {"gzip": 3}


def test_the_scores_of_all_scorers_are_shown_and_those_that_select_first(tmp_path, capsys):
    folder = BuildFolder(tmp_path)
    write_scores(folder, "gzip", "gzip_ratio", "book/0.parquet", [0.25, 0.5])
    write_scores(folder, "echo", "echo", "book/0.parquet", [2.0])
    main([str(tmp_path), "--once"])
    # echo comes first among the scorers
    shown = capsys.readouterr().out
    assert shown.index("echo so far") < shown.index("gzip ratio so far")
    write_record(folder.ranking, {"scorers": ["gzip", "echo"]})
    main([str(tmp_path), "--once"])
    shown = capsys.readouterr().out
    assert shown.index("gzip ratio so far") < shown.index("mean 0.375") < shown.index("echo so far")


def test_each_scorers_progress_is_that_of_the_windows_that_are_cut(tmp_path, tiny_llama, capsys):
    documents = {"book": [{"text": text(90, number)} for number in range(6)]}
    recipe = write_recipe(tmp_path, tiny_llama, documents, documents_per_shard=1)
    settings = {"scorers": ["length", "gzip"], "gate": "longattn"}
    # the last scorer is not through with the third of the documents
    folder = build_and_kill(recipe, tmp_path / "out", shards=8, **settings)
    rows = [len(pq.ParquetFile(path).read()) for path in sorted(folder.windows.rglob("*.parquet"))]
    main([str(tmp_path / "out"), "--once"])
    shown = capsys.readouterr().out
    lines, done = [line.split() for line in shown.splitlines()], {3: sum(rows[:3]), 2: sum(rows[:2])}
    at = lines.index(f"Scored so far of {sum(rows)} windows that are cut:".split())
    share = {count: f"{windows / sum(rows):.0%}" for count, windows in done.items()}
    assert lines[at + 2 : at + 5] == [
        ["length", str(done[3]), share[3], "decides"],
        ["longattn", str(done[2]), share[2], "decides"],
        ["gzip", str(done[3]), share[3]],
    ]
    assert shown.index("length so far") < shown.index("dependency strength so far") < shown.index("gzip ratio so far")


@pytest.mark.parametrize("every", ["-1", "0", ".inf", ".nan", "1e300"])
def test_the_time_between_two_looks_is_one_that_passes(tmp_path, every):
    BuildFolder(tmp_path).heartbeats.mkdir(parents=True)
    with pytest.raises(SystemExit, match="watch: every=.* must be above 0 and at most 86,400 seconds"):
        main([str(tmp_path), "--every", every, "--once"])


def test_a_build_that_has_not_begun_is_waited_for(tmp_path, capsys):
    with pytest.raises(SystemExit, match="holds no build"):
        main([str(tmp_path / "out"), "--once"])

    def finish():
        folder = BuildFolder(tmp_path / "out")
        # a selection of another cut is at work where an earlier one is finished
        folder.heartbeats.mkdir(parents=True)
        write_record(folder.owner, {})
        folder.finished.write_text("{}")
        (folder.heartbeats / "0.json").write_text(json.dumps(asdict(beat(ended=True, host=socket.gethostname()))))
        time.sleep(0.3)
        folder.owner.unlink()

    begins = threading.Timer(0.2, finish)
    begins.start()
    main([str(tmp_path / "out"), "--every", "0.05"])
    begins.join()
    shown = capsys.readouterr().out
    assert "holds no build on this machine yet: waiting for one to begin. Ctrl-C" in " ".join(shown.split())
    assert "through" in shown and shown.count("The build is finished.") == 1


def test_a_finished_build_is_left_or_followed_to_the_next(tmp_path, capsys, monkeypatch):
    folder = BuildFolder(tmp_path)
    write_scores(folder, "echo", "echo", "book/0.parquet", [2.0, 2.0])
    folder.finished.write_text("{}")
    main([str(tmp_path)])
    assert capsys.readouterr().out.count("The build is finished.") == 1
    waits = []

    def meanwhile(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            # another build begins, of other documents
            write_record(folder.owner, {})
            write_scores(folder, "echo", "echo", "book/0.parquet", [5.0, 5.0, 5.0])
        elif len(waits) == 3:
            folder.owner.unlink()
        elif len(waits) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("longattn_hf.watch.time.sleep", meanwhile)
    main([str(tmp_path), "--follow"])
    looks = capsys.readouterr().out.split("Waiting for the next build in this folder.")
    # said once each time, however long it waits
    assert len(waits) == 5 and len(looks) == 3 and looks[0].count("The build is finished.") == 1
    assert "mean 2 " in looks[0] and "3 windows" in looks[1] and "mean 5 " in looks[1] and "mean 2 " not in looks[1]
    assert "No process has given a sign of life yet." in looks[1]
