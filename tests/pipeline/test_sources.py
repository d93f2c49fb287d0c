"""Documents of a dataset on the Hub, streamed through windowing: pinned to a commit, interrupted and gone on with."""

import dataclasses
import gzip
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from huggingface_hub import HfFileSystem

from longattn_hf.files import read_record
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.reading import UNREADABLE
from longattn_hf.pipeline.recipe import shareable_recipe
from longattn_hf.pipeline.shards import read_facts
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.source_pins import pin_sources
from longattn_hf.pipeline.sources import open_source
from longattn_hf.pipeline.stages import window_sources, windowed_shards
from longattn_hf.windows import WindowDocuments

REPO = "them/corpus"
SHARDS, EACH = 3, 8
# metadata of which the reader of JSON cannot make one schema
ODD = ({"year": 1929}, "none", [1, {"pages": [2]}])


def document(number, edition=""):
    return {"id": f"d{number}", "text": f"{edition}The far tokens of document {number} matter. 日本語 😀 " * 3}


def as_parquet(rows):
    buffer = io.BytesIO()
    Dataset.from_list(rows).to_parquet(buffer)
    return buffer.getvalue()


def as_json_lines(rows, odd):
    return gzip.compress("".join(json.dumps(row | {"metadata": odd}) + "\n" for row in rows).encode())


def files(kind, edition=""):
    parts = [[document(EACH * part + i, edition) for i in range(EACH)] for part in range(SHARDS)]
    if kind == "parquet":
        return {f"data/train-{n:05d}-of-{SHARDS:05d}.parquet": as_parquet(part) for n, part in enumerate(parts)}
    return {f"documents/{n}.jsonl.gz": as_json_lines(part, ODD[n]) for n, part in enumerate(parts)}


def source_config(kind, **settings):
    if kind == "json lines":
        settings |= {"data_files": "documents/*.jsonl.gz", "json_lines": True, "columns": ["id"]}
    return SourceConfig(category="book", path=REPO, **settings)


@pytest.fixture(params=["parquet", "json lines"])
def kind(request, hub):
    hub.create(REPO, files(request.param))
    return request.param


@pytest.fixture
def transform(tiny_llama):
    return WindowDocuments(tokenizer=str(tiny_llama), window_tokens=32)


def window(config, transform, folder):
    (pinned,) = pin_sources([config], folder / "sources.json")
    source = open_source(pinned)
    window_sources([source], transform, BuildFolder(folder), documents_per_shard=2)
    return list(windowed_shards([source], BuildFolder(folder).windows))


def rows_of(names, folder):
    return [row for name in names for row in pq.read_table(folder / "work" / "windows" / name).to_pylist()]


def opened(hub):
    """The data files of which bytes were asked for, and how often."""
    paths = [entry.path.split("?")[0] for entry in hub.requests("GET", "/resolve/") if not entry.path.endswith(".md")]
    return {path.rpartition("/")[2]: paths.count(path) for path in paths}


def test_the_documents_of_all_files_are_windowed_and_carry_what_was_asked_for(hub, kind, transform, tmp_path):
    names = window(source_config(kind, license="CC0-1.0"), transform, tmp_path)
    rows = rows_of(names, tmp_path)
    assert {row["doc_id"] for row in rows} == {f"d{number}" for number in range(SHARDS * EACH)}
    assert {(row["source"], row["license"]) for row in rows} == {(REPO, "CC0-1.0")}
    for row in rows:
        whole = document(int(row["doc_id"][1:]))["text"]
        assert whole[row["start_char"] : row["end_char"]] == row["text"]
    assert not {"metadata"} & set(rows[0])
    assert len(names) == SHARDS * EACH // 2


def test_a_build_that_goes_on_stays_on_the_commit_it_began_with(hub, kind, transform, tmp_path):
    config = source_config(kind)
    whole = window(config, transform, tmp_path / "undisturbed")
    expected = rows_of(whole, tmp_path / "undisturbed")
    commit = hub.repos["dataset", REPO].refs["refs/heads/main"]
    # the connection is lost for good in the last file, after the others were windowed
    last = "documents/2.jsonl.gz" if kind == "json lines" else "train-00002"
    fault = hub.fault("GET", f"/resolve/.*{last}", status=403, times=None)
    with pytest.raises(OSError):
        window(config, transform, tmp_path / "out")
    done = sorted(path for path in (tmp_path / "out" / "work" / "windows").rglob("*.parquet"))
    stamps = {path: path.stat().st_mtime_ns for path in done}
    assert len(done) == (SHARDS - 1) * EACH // 2
    assert read_record(tmp_path / "out" / "sources.json") == {f"{REPO}@main": commit}
    hub.faults.remove(fault)
    hub.push(hub.repos["dataset", REPO], files(kind, "Second edition. "))
    HfFileSystem.clear_instance_cache()
    hub.log.clear()
    names = window(config, transform, tmp_path / "out")
    assert rows_of(names, tmp_path / "out") == expected
    assert {path: path.stat().st_mtime_ns for path in done} == stamps, "finished shards are not made again"
    assert all(commit in entry.path for entry in hub.requests("GET", "/resolve/.*(parquet|gz)"))
    facts = [read_facts(tmp_path / "out" / "work" / "windows" / name) for name in names]
    assert facts == [read_facts(tmp_path / "undisturbed" / "work" / "windows" / name) for name in names]
    # another build begins with what is there now
    new = window(config, transform, tmp_path / "new")
    assert rows_of(new, tmp_path / "new")[0]["text"].startswith("Second edition.")


def test_files_that_were_finished_are_not_read_again(hub, kind, transform, tmp_path):
    config = source_config(kind)
    names = window(config, transform, tmp_path)
    before = opened(hub)
    assert len(before) == SHARDS
    victim = tmp_path / "work" / "windows" / names[-1]
    whole = victim.read_bytes()
    victim.unlink()
    hub.log.clear()
    HfFileSystem.clear_instance_cache()
    assert window(config, transform, tmp_path) == names
    assert pq.read_table(victim).equals(pq.read_table(io.BytesIO(whole))), "it went on in the middle of the last file"
    # the features of Parquet stand in the first file, and opening a dataset reads them
    assert set(opened(hub)) <= {re.sub(".*/", "", path) for path in list(files(kind))[:: SHARDS - 1]}


def test_the_identity_is_that_of_the_commit(hub, kind, transform, tmp_path):
    repo = hub.repos["dataset", REPO]
    first = repo.refs["refs/heads/main"]
    before = open_source(source_config(kind)).identity
    second = hub.push(repo, files(kind, "Second edition. "))
    HfFileSystem.clear_instance_cache()
    assert open_source(source_config(kind)).identity != before
    assert open_source(source_config(kind, revision=first)).identity == before
    assert open_source(source_config(kind, revision=second)).identity == open_source(source_config(kind)).identity


def test_a_source_that_may_not_be_read_says_why_before_anything_is_made(hub, tmp_path, monkeypatch):
    hub.create("them/gated", files("parquet"), gated=True)
    hub.create("them/private", files("parquet"), private=True)
    hub.create("them/open", files("parquet"))
    cases = [
        ("them/gated", {}, "gated: ask for access"),
        ("them/private", {}, "no such repository, or it is private"),
        ("them/absent", {}, "no such repository, or it is private"),
        ("them/open", {"revision": "v9"}, "no such branch, tag or commit .any more.: check `revision`"),
    ]
    for json_lines in ({}, {"json_lines": True, "data_files": "data/*"}):
        for path, settings, message in cases:
            config = SourceConfig(category="book", path=path, **settings, **json_lines)
            with pytest.raises(ValueError, match=f"Reading the source '{path}' is not possible: .*{message}"):
                pin_sources([config], tmp_path / "sources.json")
            with pytest.raises(ValueError, match=message):
                open_source(config)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="does not accept the token") as raised:
        pin_sources([SourceConfig(category="book", path="them/open")], tmp_path / "sources.json")
    assert "hf_wrong" not in str(raised.value)


def test_a_hub_that_stumbles_is_asked_again_and_one_that_stays_down_ends_it(hub, clock, tmp_path):
    hub.create(REPO, files("parquet"))
    fault = hub.fault("GET", "/auth-check", status=503)
    (pinned,) = pin_sources([source_config("parquet")], tmp_path / "sources.json")
    assert fault.done == 1 and pinned.revision == hub.repos["dataset", REPO].refs["refs/heads/main"]
    hub.fault("GET", "/auth-check", action="reset", times=None)
    with pytest.raises(ConnectionError, match="Reading the source 'them/corpus' gave up after 4 attempts"):
        pin_sources([source_config("parquet")], tmp_path / "other.json")


def test_files_on_the_hub_by_address_are_refused_as_they_cannot_be_pinned(tmp_path):
    config = SourceConfig(category="book", path="json", data_files=[f"hf://datasets/{REPO}/a.jsonl"])
    with pytest.raises(ValueError, match="cannot be pinned to a commit: give the dataset's id as `path`"):
        pin_sources([config], tmp_path / "sources.json")


def test_local_sources_need_no_hub_and_show_no_path(hub, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, odd in enumerate(ODD):
        (folder / f"{number}.jsonl").write_text(json.dumps(document(number) | {"metadata": odd}) + "\n")
    config = SourceConfig(
        category="book", path=str(folder), data_files=["0.jsonl", "[12].jsonl"], json_lines=True, columns=["id"]
    )
    assert pin_sources([config], tmp_path / "sources.json") == [config]
    source = open_source(config)
    assert [row["id"] for row in source.stream] == ["d0", "d1", "d2"]
    assert source.constants["source"] == "corpus" and not hub.log
    with pytest.raises(ValueError, match="has json_lines and no data_files"):
        open_source(SourceConfig(category="book", path=str(folder), json_lines=True))


def test_what_others_need_to_build_the_same_holds_no_local_file(tmp_path):
    config = BuildConfig(name="n", model="m/m", sources=(SourceConfig(category="a", path="me/data"),), fraction=0.5)
    assert shareable_recipe(config)["sources"][0]["path"] == "me/data" and shareable_recipe(config)["model"] == "m/m"
    (tmp_path / "one.json").write_text("{}")
    here = (
        {"model": str(tmp_path)},
        {"sources": (SourceConfig(category="a", path=str(tmp_path)),)},
        {"sources": (SourceConfig(category="a", path="json", data_files=f"{tmp_path}/*.json"),)},
        {"sources": (SourceConfig(category="a", path="json", data_files=[f"{tmp_path}/one.json"]),)},
        {"sources": (SourceConfig(category="a", path="parquet", data_dir=str(tmp_path)),)},
    )
    for local in here:
        assert shareable_recipe(dataclasses.replace(config, **local)) == {}
    remote = SourceConfig(category="a", path="json", data_files="hf://datasets/me/data/*.json")
    shared = shareable_recipe(dataclasses.replace(config, sources=(remote,)))
    assert shared["sources"][0]["data_files"].startswith("hf://")


def test_a_line_that_holds_no_text_is_a_document_without_one(tmp_path):
    lines = [
        '{"text": "whole", "id": 1}',
        "",
        '{"text": "cut',
        "null",
        '["x"]',
        '{"text": ["a", "b"]}',
        '{"text": null}',
    ]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join(lines) + '\n{"id": 2}\n', encoding="utf-8")
    config = SourceConfig(
        category="c", path="json", data_files=str(tmp_path / "a.jsonl"), json_lines=True, columns=["id"]
    )
    rows = list(open_source(config).stream)
    assert [row["text"] for row in rows] == ["whole", *[None] * (len(rows) - 1)] and len(rows) >= 7
    assert rows[0]["id"] == "1" and rows[-1]["id"] == "2"


def test_a_file_of_text_is_a_document(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"book {name}\n\nin many\nlines\n")
    source = open_source(SourceConfig(category="c", path="text", data_files=str(tmp_path / "*.txt")))
    assert sorted(row["text"] for row in source.stream) == [f"book {name}\n\nin many\nlines\n" for name in "ab"]


def test_each_line_that_is_no_document_has_its_own_reason(tmp_path):
    lines = ['{"text": "whole"}', "", "{cut", "[1]", '{"text": null}', '{"text": ["a"]}', '\ufeff{"text": "marked"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = open_source(
        SourceConfig(category="c", path="json", data_files=str(tmp_path / "a.jsonl"), json_lines=True)
    )
    found = [(row["text"], row[UNREADABLE]) for row in source.stream]
    assert found == [
        ("whole", None),
        (None, "blank line"),
        (None, "damaged JSON"),
        (None, "JSON, but no object (list)"),
        (None, None),
        (None, "not text"),
        ("marked", None),
    ]


def test_lines_without_the_named_field_are_refused_with_those_there_are(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x", "id": 1}\n', encoding="utf-8")
    config = SourceConfig(category="c", path="json", data_files=str(tmp_path / "a.jsonl"), json_lines=True)
    with pytest.raises(ValueError, match="no column 'text' in its first lines; it has content, id"):
        open_source(config)


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_a_column_of_any_kind_of_text_gives_the_same_windows(tmp_path, tiny_llama, text):
    rows = [document(number) for number in range(3)]
    schema = pa.schema({"id": text, "text": text})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "documents.parquet")
    config = SourceConfig(category="book", path="parquet", data_files=str(tmp_path / "documents.parquet"))
    transform = WindowDocuments(tokenizer=str(tiny_llama), window_tokens=16)
    folder = BuildFolder(tmp_path / "out")
    window_sources([open_source(config)], transform, folder, documents_per_shard=3)
    (name,) = windowed_shards([open_source(config)], folder.windows)
    windows = pq.read_table(folder.windows / name)
    expected = transform({name: [row[name] for row in rows] for name in ("id", "text")})
    assert windows["text"].to_pylist() == expected["text"] and windows["doc_id"].to_pylist() == expected["doc_id"]
    assert {str(windows.schema.field(name).type) for name in ("text", "doc_id")} == {"string"}
