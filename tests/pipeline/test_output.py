import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.output import describe_files, plan_files, write_kept, write_selection
from longattn_hf.pipeline.processes import ALONE, Process
from longattn_hf.pipeline.shards import ScoredShards, write_shard


def layout(lengths, kept, categories, names):
    """The plan for windows of so many characters: each file's configuration, path and rows."""
    starts = 10**9 * np.arange(len(lengths))
    table = pa.table({"kept": kept, "category": categories, "start_char": starts, "end_char": starts + lengths})
    return [(file.config, file.path, file.rows.tolist()) for file in plan_files(table, names)]


def test_each_category_has_a_file_of_what_is_kept_and_all_windows_have_one_of_scores():
    kept = [True, True, False, True, True]
    assert layout(np.full(5, 9), kept, ["b", "a", "a", "b", "a"], ["b", "none", "a"]) == [
        ("b", "data/b/train-00000-of-00001.parquet", [0, 3]),
        ("none", "data/none/train-00000-of-00001.parquet", []),
        ("a", "data/a/train-00000-of-00001.parquet", [1, 4]),
        ("scores", "scores/train-00000-of-00001.parquet", [0, 1, 2, 3, 4]),
    ]


def test_a_file_begins_where_three_hundred_million_characters_are_full():
    million = 1_000_000
    lengths = np.array([200, 90, 10, 0, 299, 1, 299, 600, 1]) * million + np.array([0, 0, -1, 1, 0, -1, 1, 0, 0])
    # the windows begin at 0, 200, 290, 300 less one, 300, 599, 600 less one, 899 and 1499 million characters
    parts = [[0, 1, 2, 3], [4, 5, 6], [7], [8]]
    files = layout(lengths, [True] * 9, ["a"] * 9, ["a"])
    assert files[:-1] == [("a", f"data/a/train-{n:05d}-of-00004.parquet", part) for n, part in enumerate(parts)]


@pytest.mark.parametrize(("count", "sizes"), [(250_000, [250_000]), (500_001, [250_000, 250_000, 1]), (0, [0])])
def test_a_file_of_scores_has_at_most_a_quarter_of_a_million_rows(count, sizes):
    files = layout(
        np.ones(count, dtype=int), [False] * count, pa.array([], pa.string()) if not count else ["a"] * count, []
    )
    assert [path for _, path, _ in files] == [
        f"scores/train-{n:05d}-of-{len(sizes):05d}.parquet" for n in range(len(sizes))
    ]
    assert [len(rows) for *_, rows in files] == sizes and sum((rows for *_, rows in files), []) == list(range(count))


SCORED = ("dependency_strength", "distribution_uniformity", "map_variance", "long_distance_score")
ADDED = (*SCORED, "dependency_strength_per_head", "map_variance_standard_error")


@pytest.fixture
def scored(tmp_path):
    """Eleven windows in four shards, one of them empty, of three categories, one of which keeps nothing."""
    folder, shards, rows = BuildFolder(tmp_path / "out"), {}, []
    for number, (category, count) in enumerate((("b", 4), ("b", 0), ("a", 5), ("z", 2))):
        name, windows = f"{category}/{number:03d}.parquet", []
        for _ in range(count):
            at = len(rows) + len(windows)
            window = {"id": f"w{at}", "category": category, "start_char": at, "end_char": at + 5}
            windows.append(window | {"text": f"text {at}", "input_ids": [at]})
        schema = [("id", pa.string()), ("category", pa.string()), ("start_char", pa.int64()), ("end_char", pa.int64())]
        schema = pa.schema([*schema, ("text", pa.string()), ("input_ids", pa.list_(pa.int32()))])
        write_shard(folder.windows / name, pa.Table.from_pylist(windows, schema=schema), name)
        shards[name] = {"rows": count, "fingerprint": name, "documents": 1, "skipped": {}, "documents_by_source": []}
        rows += windows
    scores = pa.Table.from_pylist(rows).drop_columns(["text", "input_ids"])
    scores = scores.append_column(
        "kept", pa.array([at % 3 == 1 and row["category"] != "z" for at, row in enumerate(rows)])
    )
    scores = scores.append_column("skip_reason", pa.array([None] * 10 + ["empty"]))
    for number, name in enumerate(ADDED):
        values = [[at + number / 10] if name.endswith("_per_head") else at + number / 10 for at in range(11)]
        scores = scores.append_column(name, pa.array(values))
    return scores, ScoredShards.gather(folder, shards)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_files_hold_what_is_kept_with_text_and_scores_whatever_the_number_of_processes(scored, count):
    scores, shards = scored
    files = plan_files(scores, ["a", "b", "z"])
    write_selection(files, scores, shards, ADDED)
    staged = [path.parent.name for path in shards.folder.staging.rglob("*.parquet")]
    assert staged == ["scores"], "the texts are joined by all processes"
    for index in range(count):
        write_kept(shards, process=Process(index, count))
    staging = shards.folder.staging
    assert sorted(p.relative_to(staging).as_posix() for p in staging.rglob("*.parquet")) == sorted(
        f.path for f in files
    )
    # 1, 4 and 7 are kept: the first is of b, the others of a
    for category, kept in (("a", [4, 7]), ("b", [1]), ("z", [])):
        table = pq.read_table(staging / f"data/{category}/train-00000-of-00001.parquet")
        assert table.column_names == ["id", "category", "start_char", "end_char", "text", *ADDED]
        assert table["id"].to_pylist() == [f"w{at}" for at in kept]
        assert table["text"].to_pylist() == [f"text {at}" for at in kept]
        for number, name in enumerate(ADDED):
            values = [[at + number / 10] if name.endswith("_per_head") else at + number / 10 for at in kept]
            assert table[name].to_pylist() == values
    written = pq.read_table(staging / "scores/train-00000-of-00001.parquet")
    assert written.replace_schema_metadata(None).equals(scores.drop_columns(["skip_reason"]))


def test_what_the_card_states_of_the_files_is_what_they_hold(scored):
    scores, shards = scored
    files = plan_files(scores, ["a", "b", "z"])
    # two files of scores
    half = [
        type(files[-1])("scores", f"scores/train-{n:05d}-of-00002.parquet", np.arange(6 * n, 6 + 5 * n))
        for n in (0, 1)
    ]
    files = [*files[:-1], *half]
    write_selection(files, scores, shards, ADDED)
    write_kept(shards, process=ALONE)
    staging = shards.folder.staging
    described = describe_files(files, staging)
    assert [*described] == ["a", "b", "z", "scores"]
    assert [facts.num_rows for facts in described.values()] == [2, 1, 0, 11]
    for name, facts in described.items():
        folder = "scores" if name == "scores" else f"data/{name}"
        assert facts.data_files == f"{folder}/train-*.parquet"
        paths = sorted((staging / folder).glob("*.parquet"))
        assert facts.download_size == sum(len(path.read_bytes()) for path in paths)
        columns = [pq.read_metadata(path).row_group(0) for path in paths if pq.read_metadata(path).num_row_groups]
        assert facts.num_bytes == sum(group.total_byte_size for group in columns)
        assert [feature["name"] for feature in facts.features] == pq.read_schema(paths[0]).names
    loaded = load_dataset(
        "parquet", data_files=[str(path) for path in sorted((staging / "scores").glob("*"))], split="train"
    )
    assert loaded["id"][:] == scores["id"].to_pylist()


def test_windows_that_are_no_longer_those_that_were_scored_are_no_data(scored):
    scores, shards = scored
    write_selection(plan_files(scores, ["a", "b", "z"]), scores, shards, ADDED)
    path = shards.folder.windows / shards.names[2]
    write_shard(path, pq.read_table(path).take([4, 1, 2, 3, 0]), "f")
    with pytest.raises(ValueError, match="shards changed after they were scored; run the same command again"):
        write_kept(shards, process=ALONE)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_says_how_to_go_on_and_no_abort(tmp_path, run_python):
    # rows that do not fit any buffer on the way: the device itself has to refuse them
    program = (
        "import os, builtins, numpy as np, pyarrow as pa; from longattn_hf.pipeline.folder import BuildFolder\n"
        "from longattn_hf.pipeline.output import plan_files, write_selection\n"
        "from longattn_hf.pipeline.shards import ScoredShards\n"
        "ids = [os.urandom(500).hex() for _ in range(5000)]\n"
        "columns = {'id': ids, 'category': ['book'] * 5000, 'kept': [False] * 5000}\n"
        "table = pa.table(columns | {'start_char': [0] * 5000, 'end_char': [9] * 5000})\n"
        "files = [file for file in plan_files(table, []) if file.config == 'scores']\n"
        "real = open\n"
        "full = lambda path, *rest: real('/dev/full' if 'train-' in str(path) else path, *rest)\n"
        "builtins.open = full\n"
        f"shards = ScoredShards(BuildFolder({str(tmp_path / 'out')!r}), ('a',), np.array([5000]), ('f',), {{}})\n"
        "try: write_selection(files, table, shards, [])\n"
        "except OSError as error: print(error.errno, error)\n"
    )
    done = run_python(program)
    assert (
        f"Cannot write {tmp_path}/out/work/staging/scores/train-00000-of-00001.parquet: No space left" in done.stdout
    )
    assert "No space left" in done.stdout and "Make room" in done.stdout and "the same command goes on" in done.stdout
