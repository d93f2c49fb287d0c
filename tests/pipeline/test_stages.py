import os
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset

from longattn_hf import LongAttnScorer, WindowDocuments
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.heartbeat import read_heartbeats
from longattn_hf.pipeline.processes import Process
from longattn_hf.pipeline.scoring import score_windows
from longattn_hf.pipeline.shards import ScoredShards, read_facts, read_shard, write_shard
from longattn_hf.pipeline.sources import Source
from longattn_hf.pipeline.stages import window_sources, windowed_shards


def documents(count, *, text="The far tokens matter. 日本語 😀 "):
    return [{"text": text * (1 + i % 4), "number": i, "source": f"s{i % 2}"} for i in range(count)]


def source(rows, *, parts=1, category="book", **settings):
    stream = Dataset.from_list(rows).to_iterable_dataset(num_shards=parts)
    features = Dataset.from_list(rows).features
    identity = f"{len(rows)} documents"
    return Source(category=category, stream=stream, identity=identity, features=features, **settings)


@pytest.fixture
def transform(tiny_llama):
    return WindowDocuments(tokenizer=str(tiny_llama), window_tokens=16)


def window_all(sources, transform, folder, *, count=1, documents_per_shard=2):
    for index in range(count):
        window_sources(
            sources,
            transform,
            BuildFolder(folder),
            documents_per_shard=documents_per_shard,
            process=Process(index, count),
        )


def contents(folder, stage="windows"):
    root = getattr(BuildFolder(folder), stage)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def windows_of(folder):
    return BuildFolder(folder).windows


def list_shards(sources, folder):
    return ScoredShards.gather(BuildFolder(folder), windowed_shards(sources, windows_of(folder)))


def test_a_shard_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "shard.parquet"
    write_shard(path, pa.table({"x": [1, 2]}), "print", {"count": 3})
    assert read_facts(path, "print") == {"fingerprint": "print", "count": 3, "rows": 2}
    assert read_facts(path, "other") is None
    assert pq.read_table(path)["x"].to_pylist() == [1, 2]
    assert [p.name for p in path.parent.iterdir()] == ["shard.parquet"]


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign", "text"])
def test_a_damaged_or_foreign_shard_counts_as_not_there(tmp_path, damage):
    path = tmp_path / "shard.parquet"
    write_shard(path, pa.table({"x": list(range(1000))}), "print")
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        pq.write_table(pa.table({"x": [1]}), path)
    else:
        path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"not parquet"}[damage])
    assert read_facts(path) is None


def test_a_folder_that_cannot_be_written_to_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Cannot write .*shard.parquet.*Finished shards are kept"):
        write_shard(tmp_path / "file" / "shard.parquet", pa.table({"x": [1]}), "print")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_leaves_no_shard_behind(tmp_path, monkeypatch):
    real_open = open

    def open_full(path, *args, **kwargs):
        return real_open("/dev/full" if str(path).endswith(".tmp") else path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", open_full)
    with pytest.raises(OSError, match="No space left on device.*make room"):
        write_shard(tmp_path / "shard.parquet", pa.table({"x": [1]}), "print")
    assert read_facts(tmp_path / "shard.parquet") is None


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_processes_makes_the_same_files(transform, tmp_path, parts, count):
    sources = [source(documents(9), parts=parts), source(documents(4), category="code")]
    window_all(sources, transform, tmp_path / "one")
    window_all(sources, transform, tmp_path / "many", count=count)
    assert contents(tmp_path / "one").keys() == contents(tmp_path / "many").keys()
    for name in contents(tmp_path / "one"):
        assert pq.read_table(windows_of(tmp_path / "one") / name).equals(
            pq.read_table(windows_of(tmp_path / "many") / name)
        )
        # the noted position of a stream may be written in another form after it was continued
        one, many = (read_facts(windows_of(tmp_path / folder) / name) | {"state": None} for folder in ("one", "many"))
        assert one == many
    assert sorted(list(windowed_shards(sources, windows_of(tmp_path / "one")))) == sorted(contents(tmp_path / "one"))


def test_every_document_is_windowed_once_and_counted(transform, tmp_path):
    rows = [*documents(7), {"text": "short", "number": 7, "source": "s1"}, {"text": None, "number": 8, "source": "s0"}]
    sources = [source(rows, parts=2)]
    window_all(sources, transform, tmp_path)
    names = list(windowed_shards(sources, windows_of(tmp_path)))
    table = pa.concat_tables(
        [pq.read_table(windows_of(tmp_path) / name).replace_schema_metadata(None) for name in names]
    )
    expected = transform({name: [row[name] for row in rows] for name in rows[0]})
    assert table["id"].to_pylist() == expected["id"]
    assert table["number"].to_pylist() == expected["number"]
    facts = [read_facts(windows_of(tmp_path) / name) for name in names]
    assert sum(fact["documents"] for fact in facts) == 9
    assert sum((Counter(fact["skipped"]) for fact in facts), Counter()) == {"too short": 1, "missing": 1}


def test_a_stream_is_continued_from_its_noted_position(transform, tmp_path):
    read = []

    def note(row):
        read.append(row["number"])
        return row

    stream = Dataset.from_list(documents(10)).to_iterable_dataset().map(note)
    sources = [Source(category="book", stream=stream, identity="ten")]
    window_all(sources, transform, tmp_path)
    whole = contents(tmp_path)
    assert read == list(range(10))
    read.clear()
    window_all(sources, transform, tmp_path)
    assert read == [], "a finished stream is not read again"
    names = list(windowed_shards(sources, windows_of(tmp_path)))
    (windows_of(tmp_path) / names[3]).unlink()
    written = {name: (windows_of(tmp_path) / name).stat().st_mtime_ns for name in whole if name != names[3]}
    window_all(sources, transform, tmp_path)
    assert contents(tmp_path) == whole
    assert all((windows_of(tmp_path) / name).stat().st_mtime_ns == when for name, when in written.items())
    assert 0 not in read, "documents before the missing shard are skipped"


@pytest.mark.parametrize("parts", [1, 2, 3, 8, 13])
def test_a_part_is_that_shard_of_the_stream(parts):
    stream = Dataset.from_list(documents(3 * parts)).to_iterable_dataset(num_shards=parts)
    opened = Source(category="book", stream=stream, identity="")
    numbers = [[row["number"] for row in opened.open_part(part)] for part in range(parts)]
    assert numbers == [list(range(3 * part, 3 * part + 3)) for part in range(parts)]


def test_parts_that_are_finished_are_not_opened(transform, tmp_path, monkeypatch):
    sources, opened, open_part = [source(documents(12), parts=6)], [], Source.open_part
    monkeypatch.setattr(Source, "open_part", lambda self, part: opened.append(part) or open_part(self, part))
    window_all(sources, transform, tmp_path)
    assert opened == list(range(6))
    opened.clear()
    (windows_of(tmp_path) / "book" / "000-00004-00000.parquet").unlink()
    window_all(sources, transform, tmp_path)
    assert opened == [4]


def test_any_changed_byte_of_a_shard_is_noticed(tmp_path):
    path = tmp_path / "shard.parquet"
    # what looks like the digest's own place, in a column, a fact and the table's metadata
    decoy = "sha256:" + "0" * 64
    table = pa.table({"text": [decoy] * 9, "number": range(9)}).replace_schema_metadata({"z": decoy})
    write_shard(path, table, "print", {"source": decoy})
    assert read_facts(path, "print") == {"fingerprint": "print", "source": decoy, "rows": 9}
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert read_facts(path) is None, at


def test_a_changed_source_or_setting_makes_its_shards_again(transform, tmp_path):
    rows = documents(4)
    window_all([source(rows)], transform, tmp_path)
    before = {name: read_facts(windows_of(tmp_path) / name)["fingerprint"] for name in contents(tmp_path)}
    other = Source(category="book", stream=source(rows).stream, identity="edited")
    window_all([other], transform, tmp_path)
    after = {name: read_facts(windows_of(tmp_path) / name)["fingerprint"] for name in contents(tmp_path)}
    assert before.keys() == after.keys() and not set(before.values()) & set(after.values())


def test_shards_left_by_more_documents_do_not_count(transform, tmp_path):
    window_all([source(documents(9))], transform, tmp_path)
    fewer = [source(documents(3))]
    window_all(fewer, transform, tmp_path)
    assert len(list(windowed_shards(fewer, windows_of(tmp_path)))) == 2 < len(contents(tmp_path))


def test_windowing_that_has_not_ended_is_noticed(transform, tmp_path):
    sources = [source(documents(6))]
    window_all(sources, transform, tmp_path)
    (windows_of(tmp_path) / "book" / "000-00000-00001.parquet").unlink()
    with pytest.raises(ValueError, match="000-00000-00001.parquet is missing or damaged"):
        list(windowed_shards(sources, windows_of(tmp_path)))


def test_a_source_without_documents_is_an_empty_shard(transform, tmp_path):
    stream = IterableDataset.from_generator(lambda: iter(()))
    sources = [Source(category="book", stream=stream, identity="none")]
    window_all(sources, transform, tmp_path)
    shards = list_shards(sources, tmp_path)
    assert shards.rows.tolist() == [0] and pq.read_metadata(windows_of(tmp_path) / shards.names[0]).num_rows == 0


def test_no_more_than_the_documents_asked_for_are_read(transform, tmp_path):
    sources = [source(documents(9), max_documents=3)]
    window_all(sources, transform, tmp_path)
    facts = [read_facts(windows_of(tmp_path) / name) for name in list(windowed_shards(sources, windows_of(tmp_path)))]
    assert sum(fact["documents"] for fact in facts) == 3


@pytest.fixture
def windowed(transform, tmp_path):
    sources = [source(documents(10), parts=2, constants={"license": "CC0-1.0"})]
    window_all(sources, transform, tmp_path / "out")
    return list_shards(sources, tmp_path / "out")


def elsewhere(shards, folder):
    """The same shards of windows in another folder, without scores."""
    folder = BuildFolder(folder)
    shutil.copytree(shards.folder.windows, folder.windows)
    return replace(shards, folder=folder)


@pytest.mark.parametrize("count", [2, 3])
def test_scores_are_the_same_bytes_whatever_the_number_of_processes(windowed, tiny_llama, tmp_path, count):
    scorer, many = LongAttnScorer(str(tiny_llama)), elsewhere(windowed, tmp_path / "many")
    done = score_windows(windowed, {"longattn": scorer})
    parts = [score_windows(many, {"longattn": scorer}, process=Process(index, count)) for index in range(count)]
    assert sum(parts) == done == windowed.rows.sum() > 0
    assert contents(tmp_path / "out", "scores") == contents(tmp_path / "many", "scores")
    scores = pq.read_table(windowed.folder.scores / windowed.names[0])
    assert not {"text", "input_ids"} & set(scores.column_names)
    assert {"id", "dependency_strength", "license", "number"} <= set(scores.column_names)


def test_only_what_is_missing_damaged_or_of_other_settings_is_scored_again(windowed, tiny_llama, tmp_path):
    names, scores, scorer = windowed.names, windowed.folder.scores, LongAttnScorer(str(tiny_llama))
    every = score_windows(windowed, {"longattn": scorer})
    whole = contents(tmp_path / "out", "scores")
    assert score_windows(windowed, {"longattn": scorer}) == 0
    (scores / names[0]).write_bytes(whole[names[0]][:-7])
    (scores / names[1]).write_bytes(b"")
    pq.write_table(pa.table({"id": ["x"]}), scores / names[2])
    assert score_windows(windowed, {"longattn": scorer}) == windowed.rows[:3].sum()
    assert contents(tmp_path / "out", "scores") == whole
    assert score_windows(windowed, {"longattn": LongAttnScorer(str(tiny_llama), min_distance=3)}) == every
    assert contents(tmp_path / "out", "scores") != whole


def test_a_window_that_cannot_be_scored_names_its_shard_and_id(windowed, tiny_llama):
    name = windowed.names[0].split("/")[-1]
    with pytest.raises(ValueError, match=rf"While scoring {name}, windows \['[0-9a-f]+'.*longer than"):
        score_windows(windowed, {"longattn": LongAttnScorer(str(tiny_llama), window_tokens=8)})


def test_windows_with_a_damaged_page_are_not_scored(windowed, tiny_llama):
    path, scorer = windowed.folder.windows / windowed.names[0], LongAttnScorer(str(tiny_llama))
    score_windows(windowed, {"longattn": scorer})
    scores, whole = windowed.folder.scores / windowed.names[0], path.read_bytes()
    expected, group = read_shard(scores), pq.read_metadata(path).row_group(0)
    (ids,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("input_ids"))
    # the page's header and the ids: where a change of either goes unnoticed, it changes nothing
    start, noticed = ids.dictionary_page_offset or ids.data_page_offset, 0
    places = [*range(start, start + 40), *range(start + 40, start + ids.total_compressed_size, 7)]
    for at in places:
        scores.unlink(missing_ok=True)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            score_windows(windowed, {"longattn": scorer})
            assert read_shard(scores).equals(expected), at
        except (OSError, ValueError):
            noticed += 1
    assert noticed > len(places) / 2


def test_a_process_says_how_much_it_has_to_do_and_has_done(transform, tiny_llama, tmp_path):
    sources, folder = [source(documents(10), parts=5)], BuildFolder(tmp_path)
    for index in range(2):
        window_sources(
            sources,
            transform,
            folder,
            documents_per_shard=1,
            process=Process(index, 2),
        )
    beats = read_heartbeats(folder.heartbeats)
    # the first takes parts 0, 2 and 4
    assert [(b.stage, b.unit, b.processes, b.total, b.done, b.ended) for b in beats] == [
        ("windows", "source parts", 2, 3, 3, True),
        ("windows", "source parts", 2, 2, 2, True),
    ]
    shards = list_shards(sources, tmp_path)
    score_windows(shards, {"longattn": LongAttnScorer(str(tiny_llama))})
    (beat,) = read_heartbeats(folder.heartbeats)
    assert (beat.stage, beat.unit, beat.total, beat.done) == ("scores", "windows", *[shards.rows.sum()] * 2)
    (folder.scores / shards.names[0]).unlink()
    assert score_windows(shards, {"longattn": LongAttnScorer(str(tiny_llama))}) == shards.rows[0]
    (beat,) = read_heartbeats(folder.heartbeats)
    assert (beat.total, beat.done, beat.ended) == (shards.rows[0], shards.rows[0], True)


def test_moving_the_folder_changes_nothing(windowed, tiny_llama, tmp_path):
    scorer = LongAttnScorer(str(tiny_llama))
    score_windows(windowed, {"longattn": scorer})
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert score_windows(replace(windowed, folder=BuildFolder(tmp_path / "moved")), {"longattn": scorer}) == 0


def test_the_list_of_shards_comes_back_as_it_was_and_a_damaged_one_is_named(windowed, tmp_path):
    windowed.save()
    again = ScoredShards.load(windowed.folder)
    assert (again.names, again.fingerprints) == (windowed.names, windowed.fingerprints)
    assert again.rows.tolist() == windowed.rows.tolist() and again.counts == windowed.counts
    windowed.folder.shards.write_bytes(windowed.folder.shards.read_bytes()[:-9])
    with pytest.raises(ValueError, match="shards.parquet is missing or damaged"):
        ScoredShards.load(windowed.folder)


def test_a_row_of_the_corpus_is_found_with_its_own_text(windowed, tiny_llama):
    scorer = LongAttnScorer(str(tiny_llama))
    score_windows(windowed, {"longattn": scorer})
    scores = windowed.read_scores({"longattn": scorer.fingerprint})
    rows = np.array([3, 0, len(scores) - 1, 4])
    windows = windowed.read_windows(*windowed.locate(rows), ["id", "text"])
    assert windows["id"].to_pylist() == scores["id"].take(rows).to_pylist()
    assert windowed.read_texts(rows) == windows["text"].to_pylist()
    assert windowed.read_windows(*windowed.locate(rows[:0])).num_rows == 0
    with pytest.raises(ValueError, match="are of other windows"):
        windowed.read_scores({"longattn": "another scorer"})


def test_what_documents_say_of_source_and_licence_is_text_whatever_its_kind(transform, tmp_path):
    told = [("s", "MIT"), (7, ["MIT", "CC0-1.0"]), ({"a": 1}, None), (None, []), (["x", 1], True)]
    rows = [{"text": "The far tokens matter. " * 3, "source": source, "license": licence} for source, licence in told]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    constants = {"source": "c", "license": "unknown"}
    sources = [Source(category="book", stream=stream, identity="odd", constants=constants)]
    window_all(sources, transform, tmp_path, documents_per_shard=5)
    (name, facts), *_ = windowed_shards(sources, windows_of(tmp_path)).items()
    table = pq.read_table(windows_of(tmp_path) / name)
    assert str(table.schema.field("source").type) == str(table.schema.field("license").type) == "string"
    seen = list(dict.fromkeys(zip(table["source"].to_pylist(), table["license"].to_pylist(), strict=True)))
    # what a document does not say is what the settings say
    told = [("s", "MIT"), ("7", "MIT, CC0-1.0"), ('{"a": 1}', "unknown"), ("c", "unknown"), ('["x", 1]', "true")]
    assert seen == told
    assert sum(count for *_, count in facts["documents_by_source"]) == 5


def test_a_source_that_has_our_columns_is_scored_with_ours(transform, tiny_llama, tmp_path, caplog):
    ours = {
        "dependency_strength": 9.0,
        "kept": False,
        "long_distance_score": 1.0,
        "dependency_strength_per_head": [1.0],
    }
    sources = [source([row | ours for row in documents(4)])]
    window_all(sources, transform, tmp_path)
    shards = list_shards(sources, tmp_path)
    scorer = LongAttnScorer(str(tiny_llama), per_head=True)
    score_windows(shards, {"longattn": scorer})
    scores = shards.read_scores({"longattn": scorer.fingerprint})
    assert scores.column_names.count("dependency_strength") == 1 and "kept" not in scores.column_names
    assert max(scores["dependency_strength"].to_pylist()) < 1
