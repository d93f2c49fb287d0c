"""Shards and where a corpus's rows stand in them, on tables small enough to count by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.shards import ScoredShards, read_facts, read_shard, write_shard


def facts(rows, fingerprint, documents=1, **counts):
    return {
        "rows": rows,
        "fingerprint": fingerprint,
        "documents": documents,
        "skipped": {},
        "documents_by_source": [],
    } | counts


def corpus(folder, rows):
    """A list of shards of one category, so many rows each, named by their numbers."""
    return ScoredShards.gather(
        BuildFolder(folder), {f"book/{n:03d}.parquet": facts(count, f"f{n}") for n, count in enumerate(rows)}
    )


def test_a_damaged_page_is_an_error_also_where_only_some_columns_are_read(tmp_path):
    path, random = tmp_path / "shard.parquet", np.random.default_rng(0)
    # numbers that no compression packs: without checksums each changed bit of them is another number
    table = pa.table({"x": random.integers(0, 2**62, 40), "y": random.integers(0, 2**62, 40)})
    write_shard(path, table, "print")
    whole, chunk = path.read_bytes(), pq.read_metadata(path).row_group(0).column(1)
    start = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    noticed = 0
    for at in range(start, start + chunk.total_compressed_size, 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert read_facts(path) is None
        # what does not read it all sees the footer alone
        assert read_facts(path, check=False) == {"fingerprint": "print", "rows": 40}
        assert read_facts(path, "other", check=False) is None
        assert read_shard(path, ["x"])["x"].equals(table["x"])
        try:
            # what of a page's header says nothing of the numbers may change
            assert read_shard(path, ["y"])["y"].equals(table["y"]), at
        except ValueError as error:
            assert f"{path} is missing or damaged" in str(error)
            noticed += 1
    assert noticed * 5 > 0.9 * 8 * 40
    with pytest.raises(ValueError, match="none.parquet is missing or damaged.*same command again"):
        read_shard(tmp_path / "none.parquet")


def test_a_shard_is_read_in_groups_of_256_rows(tmp_path):
    write_shard(tmp_path / "shard.parquet", pa.table({"x": range(600)}), "print")
    metadata = pq.read_metadata(tmp_path / "shard.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [256, 256, 88]
    assert read_shard(tmp_path / "shard.parquet")["x"].to_pylist() == list(range(600))


def test_a_shards_bytes_do_not_hang_on_the_order_of_its_facts(tmp_path):
    for name, kept in (("one", {"a": 1, "b": [2]}), ("two", {"b": [2], "a": 1})):
        write_shard(tmp_path / name, pa.table({"x": [1]}), "print", kept)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_documents_of_a_category_are_those_of_all_its_shards(tmp_path):
    shards = ScoredShards.gather(
        BuildFolder(tmp_path),
        {
            "a/b/0.parquet": facts(3, "f", 5, skipped={"empty": 2}, documents_by_source=[["s", None, 5]]),
            "a/b/1.parquet": facts(0, "g", 1, skipped={"empty": 1}, documents_by_source=[["s", None, 1]]),
            "book/0.parquet": facts(2, "h", 4),
        },
    )
    assert [*shards.counts] == ["a/b", "book"] and shards.rows.tolist() == [3, 0, 2]
    assert (shards.counts["a/b"].documents, shards.counts["a/b"].skipped) == (6, {"empty": 3})
    assert shards.counts["a/b"].by_source == {("s", None): 6} and shards.counts["book"].documents == 4
    shards.save()
    written = shards.folder.shards.stat().st_mtime_ns
    shards.save()
    assert shards.folder.shards.stat().st_mtime_ns == written
    again = ScoredShards.load(shards.folder)
    assert again.counts == shards.counts and [*again.counts] == ["a/b", "book"]
    assert (again.names, again.fingerprints) == (shards.names, shards.fingerprints)
    assert again.rows.tolist() == [3, 0, 2] and again.rows.dtype == np.int64
    corpus(tmp_path, [3, 1]).save()
    assert ScoredShards.load(shards.folder).names == ("book/000.parquet", "book/001.parquet")


def test_a_row_is_found_in_its_shard_past_those_without_rows(tmp_path):
    shards = corpus(tmp_path, [2, 0, 3, 0, 1])
    for n, rows in enumerate(([0, 1], [], [2, 3, 4], [], [5])):
        write_shard(
            shards.folder.windows / shards.names[n],
            pa.table(
                {"number": pa.array(rows, pa.int64()), "text": pa.array([f"t{row}" for row in rows], pa.string())}
            ),
            f"f{n}",
        )
    found, places = shards.locate(np.arange(6))
    assert found.tolist() == [0, 0, 2, 2, 2, 4] and places.tolist() == [0, 1, 0, 1, 2, 0]
    for rows in ([5, 0, 1, 4, 3], [2], [3, 0, 2]):
        windows = shards.read_windows(*shards.locate(np.array(rows)))
        assert windows["number"].to_pylist() == rows and windows.column_names == ["number", "text"]
        assert shards.read_texts(np.array(rows)) == [f"t{row}" for row in rows]
    none = shards.read_windows(*shards.locate(np.array([], dtype=np.int64)), ["text"])
    assert none.num_rows == 0 and none.column_names == ["text"]


def test_the_scores_of_many_shards_are_read_in_their_order(tmp_path):
    shards = corpus(tmp_path, [1] * 300)
    for n, name in enumerate(shards.names):
        # a reason is a column of the shards that have one
        columns = {"number": [n]} | ({"skip_reason": ["empty"]} if n == 290 else {})
        write_shard(
            shards.folder.scores / name, pa.table(columns), shards.score_fingerprint(n, "scorer"), {"adds": []}
        )
    scores = shards.read_scores({"longattn": "scorer"})
    assert scores["number"].to_pylist() == list(range(300))
    assert scores["skip_reason"].to_pylist() == [None] * 290 + ["empty"] + [None] * 9
    assert [len(chunk) for chunk in scores["number"].chunks] == [256, 44]
    with pytest.raises(ValueError, match="The scores book/000.parquet are of other windows"):
        shards.read_scores({"longattn": "another"})
    pq.write_table(pa.table({"number": [0]}), shards.folder.scores / shards.names[0])
    with pytest.raises(ValueError, match="are of other windows"):
        shards.read_scores({"longattn": "scorer"})
