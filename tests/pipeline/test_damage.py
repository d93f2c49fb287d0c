"""No damaged byte goes unnoticed, and none stops a build for ever; `tests.support.damage` runs many more."""

import pytest

from longattn_hf.files import read_record, write_record
from longattn_hf.pipeline.source_pins import read_pins
from tests.support.damage import DamagedBuilds

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    return DamagedBuilds(tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize("stage", ["scores", "windows"])
def test_a_shard_with_a_flipped_bit_is_made_again(builds, stage):
    assert [builds.flip(stage, f"test {stage} {number}") for number in range(3)] == ["made again"] * 3


@pytest.mark.parametrize("number", range(8))
def test_a_damaged_file_is_made_again_or_named(builds, number):
    assert builds.damage(f"test {number}") in ("made again", "named, then made again")


def test_a_record_notices_any_changed_bit_and_another_ones_place(tmp_path):
    path, values = tmp_path / "a.json", {"commit": "0123abc", "list": [1, None, "日本"]}
    write_record(path, values)
    assert read_record(path) == values
    whole = path.read_bytes()
    (tmp_path / "b.json").write_bytes(whole)
    assert read_record(tmp_path / "b.json") == read_record(tmp_path / "none.json") == {}
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        # a blank for another, or the other case of an escape, changes nothing
        assert read_record(path) in ({}, values), bit
    for damage in (b"", b"[]", b"3", b"null", b"{}", whole[:-3], b"[" * 100_000, b"\xff\xfe"):
        path.write_bytes(damage)
        assert read_record(path) == {}


def test_damaged_commits_of_sources_are_named_and_not_read_anew_silently(tmp_path):
    record = tmp_path / "sources.json"
    assert read_pins(record) == {}
    record.write_text('{"some/corpus@main": "0123"}')
    with pytest.raises(ValueError, match="sources.json is damaged.*delete it"):
        read_pins(record)
