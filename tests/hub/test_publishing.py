import hashlib
import json
import logging
import multiprocessing
import os
import signal
from pathlib import Path

import datasets
import pytest
import yaml
from datasets import Dataset, DatasetDict, Features, Value, load_dataset
from huggingface_hub import HfApi, HfFileSystem

from longattn_hf.files import load_yaml, write_record
from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.hub.publishing import publish
from tests.support.hub_client import CLIENT_HEEDS_RETRY_AFTER

FEATURES = Features({"text": Value("string"), "category": Value("string"), "long_distance_score": Value("float64")})
# a character of every plane that has any, and what text files are made of
PLANES = "".join(chr(plane * 0x10000 + 0x41) for plane in (0, 1, 2, 3, 14, 15, 16)) + "\0\r\n\t'\"\\ 日本語 😀 ﷽"
REPO = "me/LongABC"


def rows(category, count, *, start=0):
    texts = [f"{category} {number} {PLANES}" for number in range(start, start + count)]
    return Dataset.from_dict(
        {"text": texts, "category": [category] * count, "long_distance_score": [n / 7 for n in range(count)]},
        features=FEATURES,
    )


def write_release(folder, counts, *, shards=1, start=0, body="Scores and figures.", extra=None):
    """An output folder as a build leaves it, with one configuration a category and one of all scores."""
    parts = {f"data/{name}": rows(name, count, start=start) for name, count in counts.items()}
    parts["scores"] = rows("any", sum(counts.values()), start=start).remove_columns("text")
    configs, infos = [], []
    for path, part in parts.items():
        (folder / path).mkdir(parents=True)
        count = max(1, min(shards, len(part)))
        for index in range(count):
            name = f"train-{index:05d}-of-{count:05d}.parquet"
            part.shard(count, index, contiguous=True).to_parquet(folder / path / name)
        config = {"config_name": path.removeprefix("data/"), "data_files": f"{path}/train-*.parquet"}
        configs.append(config)
        splits = [{"name": "train", "num_bytes": 1, "num_examples": len(part)}]
        infos.append(
            {"config_name": config["config_name"], "features": part.features._to_yaml_list(), "splits": splits}
        )
    configs[0]["default"] = True
    front = {"license": "mit", "tags": ["longattn"], "configs": configs, "dataset_info": infos} | (extra or {})
    card = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n# LongABC\n\n{BEGIN}\n{body}\n{END}\n"
    (folder / "README.md").write_text(card)
    (folder / "report.json").write_text(json.dumps({"windows": sum(counts.values())}))
    (folder / "figures").mkdir()
    (folder / "figures" / "scores.png").write_bytes(b"\x89PNG" + bytes(range(256)))
    (folder / "work").mkdir()
    (folder / "work" / "windows.parquet").write_bytes(b"private")
    return folder


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "out", {"arxiv": 7, "book": 5}, shards=2)


def published_files(folder):
    skip = {"work", "README.md"}
    paths = [path for path in folder.rglob("*") if path.is_file() and not skip & set(path.relative_to(folder).parts)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def on_the_hub(hub, repo_id=REPO):
    own = (".gitattributes", "README.md")
    return {path: data for path, data in hub.repos["dataset", repo_id].files.items() if path not in own}


def commits_made(hub):
    return [entry for entry in hub.requests("POST", "/commit/") if entry.status == 200]


# what a reader gets


def test_every_configuration_and_the_default_load_back_equal_streaming_and_not(hub, tmp_path):
    counts = {"arxiv": 120, "book": 1, "code": 0, "web.v2": 60}
    out = write_release(tmp_path / "out", counts, shards=19)
    done = publish(out, REPO)
    assert len(commits_made(hub)) == 1 and len(on_the_hub(hub)) == 3 * 19 + 2 + 2
    assert {it.name: it.num_rows for it in done.configurations} == counts | {"scores": 181}
    for name in counts:
        wanted = rows(name, counts[name]).to_list()
        assert list(load_dataset(REPO, name, split="train", streaming=True)) == wanted
        if not wanted:
            # datasets can stream an empty split, but refuses to load one
            with pytest.raises(ValueError, match="corresponds to no data"):
                load_dataset(REPO, name, split="train")
            continue
        assert load_dataset(REPO, name, split="train").to_list() == wanted
        assert load_dataset(REPO, name, split="train").features == FEATURES
    assert load_dataset(REPO, split="train").to_list() == rows("arxiv", 120).to_list()
    assert len(load_dataset(REPO, "scores", split="train")) == 181
    assert load_dataset(REPO, "book", split="train", revision=done.commit).num_rows == 1


def test_a_dataset_becomes_one_configuration_a_category(hub):
    whole = datasets.concatenate_datasets([rows("arxiv", 9), rows("book", 3), rows("arxiv", 2, start=9)])
    publish(DatasetDict({"train": whole, "validation": rows("book", 1)}), REPO)
    assert load_dataset(REPO, "arxiv", split="train")["text"] == rows("arxiv", 11)["text"]
    assert load_dataset(REPO, "book", split="validation").to_list() == rows("book", 1).to_list()
    assert len(commits_made(hub)) == 1
    publish(Dataset.from_dict({"n": [1, 2, 3]}), "me/plain")
    assert load_dataset("me/plain", split="train")["n"] == [1, 2, 3]


def test_shards_are_cut_at_the_size_limit_even_where_rows_differ_in_size(hub, monkeypatch):
    monkeypatch.setattr("longattn_hf.hub.staging.MAX_SHARD_BYTES", 20_000)
    texts = [os.urandom(size).hex() for size in [10] * 60 + [4_000] * 6]
    publish(Dataset.from_dict({"text": texts}), REPO)
    sizes = [len(data) for data in on_the_hub(hub).values()]
    assert max(sizes) <= 20_000 and len(sizes) > 3
    assert load_dataset(REPO, split="train")["text"] == texts


def test_scores_are_plain_doubles_in_row_groups_that_a_viewer_can_page(hub, release):
    publish(release, REPO)
    with HfFileSystem().open(f"datasets/{REPO}/data/arxiv/train-00000-of-00002.parquet") as file:
        import pyarrow.parquet as pq

        meta = pq.ParquetFile(file).metadata
    column = meta.row_group(0).column(2)
    assert column.physical_type == "DOUBLE" and column.has_offset_index


def test_a_card_is_read_as_often_for_many_categories_as_for_few(tmp_path, monkeypatch):
    read = []

    def counting(text, **settings):
        read.append(text)
        return load_yaml(text, **settings)

    monkeypatch.setattr("longattn_hf.hub.card_merge.load_yaml", counting)
    times = []
    for count in (1, 12):
        out = write_release(tmp_path / str(count), {f"c{number}": 1 for number in range(count)})
        assert len(publish(out, REPO, dry_run=True).configurations) == count + 1
        times.append(len(read))
        read.clear()
    assert times[0] == times[1] > 0


# one commit, and no more than needed


def test_a_repeated_publish_sends_nothing_and_makes_no_commit(hub, release):
    first = publish(release, REPO, tag="v1")
    hub.log.clear()
    assert publish(release, REPO, tag="v1") == first
    assert not hub.requests("PUT", "") and not hub.requests("POST", "/commit/")


def test_a_new_release_replaces_the_shards_of_the_old_one(hub, release, tmp_path):
    hub.create(REPO, {"notes.txt": b"mine", "data/arxiv/notes.txt": b"mine", "extra/train-0.parquet": b"mine"})
    publish(release, REPO)
    new = write_release(tmp_path / "new", {"arxiv": 3, "book": 5}, shards=1)
    publish(new, REPO)
    kept = {"notes.txt": b"mine", "data/arxiv/notes.txt": b"mine", "extra/train-0.parquet": b"mine"}
    assert on_the_hub(hub) == published_files(new) | kept
    assert load_dataset(REPO, "arxiv", split="train").num_rows == 3


def test_shards_of_other_configurations_stay_and_are_not_mixed_with_ours(hub, release, tmp_path):
    rows("any", 1).to_parquet(tmp_path / "a.parquet")
    shard = (tmp_path / "a.parquet").read_bytes()
    configs = {"arxiv": "data/arxiv/*.parquet", "theirs": "data/arxiv/b-*.parquet"}
    entries = [{"config_name": name, "data_files": pattern} for name, pattern in configs.items()]
    card = f"---\n{yaml.safe_dump({'configs': entries})}---\n{BEGIN}\nAn earlier release.\n{END}\n"
    files = {"README.md": card.encode(), "data/arxiv/a-0.parquet": shard, "data/arxiv/b-0.parquet": shard}
    repo = hub.create(REPO, files)
    publish(release, REPO)
    assert on_the_hub(hub) == published_files(release) | {"data/arxiv/b-0.parquet": shard}
    card = repo.files["README.md"].decode().replace("data/arxiv/b-*.parquet", "data/book/train-x.parquet")
    hub.push(repo, {"README.md": card.encode(), "data/book/train-x.parquet": shard})
    with pytest.raises(ValueError, match="uses data/book/train-x.parquet for a configuration that is not"):
        publish(release, REPO)


def test_a_tag_names_one_release_for_good(hub, release, tmp_path):
    first = publish(release, REPO, tag="v1")
    other = write_release(tmp_path / "new", {"arxiv": 3})
    with pytest.raises(ValueError, match="'v1' names other contents"):
        publish(other, REPO, tag="v1")
    assert on_the_hub(hub) == published_files(release)
    publish(other, REPO, tag="v2")
    assert load_dataset(REPO, "arxiv", split="train", revision="v1").num_rows == 7
    assert load_dataset(REPO, "arxiv", split="train", revision="v2").num_rows == 3
    assert hub.repos["dataset", REPO].refs["refs/tags/v1"] == first.commit


def test_a_branch_and_a_pull_request_leave_main_alone(hub, release):
    hub.create(REPO, {"README.md": b"# By hand\n"})
    before = hub.repos["dataset", REPO].refs["refs/heads/main"]
    publish(release, REPO, revision="next")
    done = publish(release, REPO, create_pr=True)
    assert done.pull_request == 1 and hub.repos["dataset", REPO].refs["refs/heads/main"] == before
    for revision in ("next", "refs/pr/1"):
        assert load_dataset(REPO, "book", split="train", revision=revision).num_rows == 5
    assert publish(release, REPO, create_pr=True) == done, "the open pull request is found again"
    HfApi().merge_pull_request(REPO, 1, repo_type="dataset")
    assert on_the_hub(hub) == published_files(release)
    assert publish(release, REPO, create_pr=True).pull_request is None, "main holds it: there is nothing to ask for"


def test_a_pull_request_needs_no_permission_to_write(hub, release):
    hub.create("other/data", {"README.md": b"# Theirs\n"})
    assert publish(release, "other/data", create_pr=True).pull_request == 1
    assert not on_the_hub(hub, "other/data")
    assert load_dataset("other/data", "arxiv", split="train", revision="refs/pr/1").num_rows == 7


def test_private_is_made_so_and_never_silently_public(hub, release):
    publish(release, REPO, private=True)
    assert hub.repos["dataset", REPO].private
    with pytest.raises(ValueError, match="private=False is given, but me/LongABC is private"):
        publish(release, REPO, private=False)
    hub.create("me/open")
    with pytest.raises(ValueError, match="is public"):
        publish(release, "me/open", private=True)
    assert not on_the_hub(hub, "me/open")


def test_a_dry_run_asks_nobody_and_shows_everything(hub, release, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    shown = str(publish(release, REPO, dry_run=True))
    assert not hub.log
    for part in ("me/LongABC, main: not published (dry run)", "arxiv: 7 rows, 2 files", "figures/scores.png", BEGIN):
        assert part in shown
    assert "work/" not in shown and str(release) not in shown


# the card


def test_a_card_edited_by_hand_survives_two_publishes(hub, release, tmp_path):
    publish(release, REPO)
    repo = hub.repos["dataset", REPO]
    card = repo.files["README.md"].decode()
    card = card.replace("# LongABC\n", "# Our LongABC\r\n\r\nWritten by  hand – 手.\n").replace(
        END, f"{END}\n\n## Thanks\n"
    )
    card = card.replace(
        "license: mit\n", "license: mit\npretty_name: 'Ours'   # chosen with care\nlanguage: [en, fr]\n"
    )
    card = card.replace("configs:\n", "configs:\n- config_name: theirs\n  data_files: theirs.parquet\n")
    rows("theirs", 2).to_parquet(tmp_path / "theirs.parquet")
    hub.push(repo, {"README.md": card.encode(), "theirs.parquet": (tmp_path / "theirs.parquet").read_bytes()})
    for count in (4, 6):
        new = write_release(tmp_path / str(count), {"arxiv": count}, body=f"Now {count}.", extra={"language": ["en"]})
        publish(new, REPO)
        now = repo.files["README.md"].decode()
        head, tail = now.split(BEGIN)
        assert head.endswith("# Our LongABC\r\n\r\nWritten by  hand – 手.\n\n"), "byte for byte"
        assert tail.endswith(f"{END}\n\n## Thanks\n\n") and f"Now {count}." in tail
        assert "pretty_name: 'Ours'   # chosen with care\nlanguage: [en, fr]\n" in head
        assert load_dataset(REPO, "theirs", split="train").to_list() == rows("theirs", 2).to_list()
        assert load_dataset(REPO, "arxiv", split="train").num_rows == count
        assert load_dataset(REPO, "book", split="train").num_rows == 5, "a configuration not built again stays"


def test_what_datasets_pushed_before_stays_loadable_and_the_default(hub, release):
    Dataset.from_dict({"n": [1, 2, 3]}).push_to_hub(REPO)
    publish(release, REPO)
    for arguments in ((), ("default",)):
        assert load_dataset(REPO, *arguments, split="train")["n"] == [1, 2, 3]
    assert load_dataset(REPO, "arxiv", split="train").to_list() == rows("arxiv", 7).to_list()


def test_a_category_that_is_renamed_is_the_default_under_its_new_name(hub, tmp_path):
    publish(write_release(tmp_path / "old", {"books": 4, "code": 2}), REPO)
    publish(write_release(tmp_path / "new", {"literature": 3, "code": 2}), REPO)
    assert load_dataset(REPO, split="train").to_list() == rows("literature", 3).to_list()
    assert load_dataset(REPO, "books", split="train").to_list() == rows("books", 4).to_list()


def test_a_second_default_is_refused_before_anything_is_sent(hub):
    card = "---\nconfigs:\n- config_name: theirs\n  data_files: theirs.csv\n  default: true\n---\n"
    hub.create(REPO, {"README.md": card.encode(), "theirs.csv": b"a\n1\n"})
    with pytest.raises(ValueError, match="several default configs: 'theirs' and 'default'"):
        publish(Dataset.from_dict({"n": [1]}), REPO)
    assert not hub.requests("PUT", "") and not hub.requests("POST", "/commit/")


def test_a_card_with_broken_markers_is_refused_before_anything_is_sent(hub, release):
    hub.create(REPO, {"README.md": f"{BEGIN} and no end".encode()})
    with pytest.raises(ValueError, match="correct it by hand"):
        publish(release, REPO)
    assert not hub.requests("PUT", "") and not on_the_hub(hub)


# faults that pass


def passing_faults():
    reset = dict(action="reset")
    return {
        "500 on an upload": ("PUT", "/lfs/", dict(skip=1)),
        "429 on an upload": ("PUT", "/lfs/", dict(status=429, headers={"Retry-After": "2"})),
        "429 on the commit": ("POST", "/commit/", dict(status=429, headers={"Retry-After": "2"})),
        "500 on the commit": ("POST", "/commit/", dict(status=500)),
        "409 on the commit": ("POST", "/commit/", dict(status=409)),
        "reset on an upload": ("PUT", "/lfs/", reset),
        "reset on the commit": ("POST", "/commit/", reset),
        "commit made, answer lost": ("POST", "/commit/", dict(action="lose")),
        "no answer to the commit": ("POST", "/commit/", dict(action="close")),
        "reset on the head": ("GET", "/api/datasets/me/LongABC$", reset),
        "created, answer lost": ("POST", "/repos/create", dict(action="lose")),
        "a gateway's page": ("POST", "/validate-yaml", dict(status=502, body=b"<html>bad gateway</html>")),
        "503 reading back": ("GET", "/resolve/.*parquet", dict(status=503)),
        "reset reading the card": ("HEAD", "/resolve/.*README", reset),
    }


@pytest.mark.parametrize("name", passing_faults())
def test_a_fault_that_passes_is_survived(hub, clock, release, name):
    method, path, settings = passing_faults()[name]
    fault = hub.fault(method, path, **settings)
    if "reading the card" in name:
        hub.create(REPO, {"README.md": b"# By hand\n"})
    done = publish(release, REPO)
    assert fault.done == 1 and clock.slept
    assert on_the_hub(hub) == published_files(release)
    assert len(commits_made(hub)) + ("answer lost" in name and method + path == "POST/commit/") == 1
    assert hub.repos["dataset", REPO].refs["refs/heads/main"] == done.commit
    if "429" in name and CLIENT_HEEDS_RETRY_AFTER:
        assert clock.slept == [3.0], "as long as the server asked for, and a second"


def test_a_lost_answer_does_not_open_a_second_pull_request(hub, clock, release):
    hub.create(REPO)
    hub.fault("POST", "/commit/", "lose")
    assert publish(release, REPO, create_pr=True).pull_request == 1
    assert len(hub.repos["dataset", REPO].pulls) == 1


def test_two_publishers_of_different_configurations_both_arrive_whole(hub, clock, release, tmp_path):
    publish(release, REPO)
    mine, theirs = rows("code", 6), rows("web", 4)
    hub.log.clear()
    hub.fault("POST", "/commit/", "call", call=lambda: publish(theirs, REPO))
    publish(mine, REPO)
    assert [entry.status for entry in hub.requests("POST", "/commit/")] == [412, 200, 200]
    for name, wanted in {"code": mine, "web": theirs, "book": rows("book", 5)}.items():
        assert load_dataset(REPO, name, split="train").to_list() == wanted.to_list()


def test_a_shard_that_a_racer_deleted_is_sent_again(hub, clock, release):
    publish(release, REPO)
    repo = hub.repos["dataset", REPO]
    whole = rows("arxiv", 7)
    gone = "data/arxiv/train-00000-of-00002.parquet"
    (release / "report.json").write_text("{}")

    def delete():
        tree = {path: blob for path, blob in repo.resolve("main").tree.items() if path != gone}
        repo.commit("refs/heads/main", tree, "a racer deletes a shard")

    hub.fault("POST", "/commit/", "call", call=delete)
    publish(release, REPO)
    assert load_dataset(REPO, "arxiv", split="train").to_list() == whole.to_list()


# faults that stay


def lasting_faults():
    return {
        "500 on uploads": ("PUT", "/lfs/", dict(status=500), ConnectionError, "gave up after 3 attempts.*500"),
        "500 on commits": ("POST", "/commit/", dict(status=500), ConnectionError, "gave up after 3 attempts.*500"),
        "412 on commits": ("POST", "/commit/", dict(status=412), ConnectionError, "the same call goes on"),
        "resets on commits": ("POST", "/commit/", dict(action="reset"), ConnectionError, "ReadError"),
        "403 on uploads": ("PUT", "/lfs/", dict(status=403), ValueError, "write permission"),
        "403 on commits": ("POST", "/commit/", dict(status=403), ValueError, "write permission"),
        "401": ("GET", "/api/datasets", dict(status=401), ValueError, "does not accept the token"),
    }


@pytest.mark.parametrize("name", lasting_faults())
def test_a_fault_that_stays_ends_with_what_to_do_and_main_untouched(hub, clock, release, tmp_path, name):
    publish(release, REPO)
    before = hub.repos["dataset", REPO].files
    new = write_release(tmp_path / "new", {"arxiv": 8, "book": 2})
    method, path, settings, error, message = lasting_faults()[name]
    fault = hub.fault(method, path, times=None, **settings)
    with pytest.raises(error, match=message) as raised:
        publish(new, REPO, attempts=3)
    assert "hf_writer" not in f"{raised.value!r}{raised.value.__cause__!r}" and raised.value.__cause__
    assert hub.repos["dataset", REPO].files == before
    hub.faults.remove(fault)
    publish(new, REPO)
    assert on_the_hub(hub) == published_files(new)


def test_a_token_that_may_not_write_is_told_so(hub, release, monkeypatch):
    hub.create(REPO, {"README.md": b"# By hand\n"})
    for token, message in {"hf_reader": "write permission", "hf_wrong": "does not accept the token"}.items():
        with pytest.raises(ValueError, match=message):
            publish(release, REPO, token=token)
    with pytest.raises(ValueError, match="write permission"):
        publish(release, "other/new")
    hub.repos["dataset", REPO].private = True
    with pytest.raises(ValueError, match="write permission"):
        publish(release, REPO, token="hf_stranger")
    hub.create("other/gated", {"README.md": b"# By hand\n"}, gated=True)
    with pytest.raises(ValueError, match="gated: ask for access"):
        publish(release, "other/gated")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="hf auth login"):
        publish(release, REPO)
    assert not on_the_hub(hub) and not hub.requests("PUT", "")


def test_a_token_is_never_quoted(hub, clock, release, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ValueError, match="spaces, line breaks") as raised:
        publish(release, REPO, token="hf_secret\n")
    assert "hf_secret" not in str(raised.value)
    hub.fault("POST", "/commit/", status=500)
    publish(release, REPO)
    assert "hf_writer" not in caplog.text and caplog.records
    (release / "report.json").write_text(json.dumps({"command": "publish --token hf_writer"}))
    with pytest.raises(ValueError, match="report.json quotes the token") as raised:
        publish(release, REPO)
    assert "hf_writer" not in str(raised.value)


@pytest.mark.parametrize("request_that_hangs", ["GET /api/datasets/me/LongABC$", "PUT /lfs/", "POST /commit/"])
def test_a_server_that_hangs_ends_in_an_error(hub, clock, release, request_that_hangs):
    hub.create(REPO)
    hub.fault(*request_that_hangs.split(), "hang", times=None)
    with pytest.raises(ConnectionError, match="ReadTimeout.*same call goes on"):
        publish(release, REPO, attempts=1, timeout=0.5)
    assert not on_the_hub(hub)


@pytest.mark.parametrize("damage", ["corrupt", "lost"])
def test_what_reads_back_differently_is_an_error(hub, clock, release, damage):
    hub.create(REPO)
    repo = hub.repos["dataset", REPO]

    def spoil():
        head = repo.resolve("main")
        path = "data/book/train-00001-of-00002.parquet"
        head.tree[path].sha256 = "0" * 64
        if damage == "lost":
            del head.tree[path]

    hub.fault("GET", "/tree/", "call", call=spoil, skip=1)
    with pytest.raises(RuntimeError, match="differs from what was sent: .*book.*train-00001.*book"):
        publish(release, REPO)


def _publish_quietly(folder):
    logging.disable()
    publish(folder, REPO)


def test_a_publish_killed_at_any_request_is_whole_or_absent_and_goes_on(hub, tmp_path, release):
    publish(release, REPO)
    old = on_the_hub(hub)
    new = write_release(tmp_path / "new", {"arxiv": 9, "book": 4}, shards=2, start=100, body="New.")
    hub.log.clear()
    publish(new, REPO)
    requests, uploads = len(hub.log), len(hub.requests("PUT", ""))
    # one less than the first time, as the old card is in the client's cache from then on
    points = sorted({round(number * (requests - 2) / 9) for number in range(10)})
    assert len(points) == 10 and uploads == 6, "two shards of each of the three configurations"
    final = hub.repos["dataset", REPO].files
    stored = {name for name in hub.objects}
    seen = set()
    for point in points:
        hub.__init__(hub.endpoint)
        publish(release, REPO)
        hub.log.clear()
        hub.fault(".*", "", "hang", skip=point)
        # a fork starts at once, where a new interpreter would import for seconds
        child = multiprocessing.get_context("fork").Process(target=_publish_quietly, args=(new,))
        child.start()
        assert hub.hanging.wait(60)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        visible = on_the_hub(hub)
        assert visible in (old, published_files(new)), f"a reader sees a part after request {point}"
        seen.add(visible == old)
        publish(new, REPO)
        assert hub.repos["dataset", REPO].files == final and stored <= set(hub.objects)
        finished = [entry for entry in hub.requests("PUT", "/lfs/") if entry.status == 200]
        assert len(finished) == uploads, "no shard is sent twice"
        assert len(hub.repos["dataset", REPO].commits) == 3
    assert seen == {True, False}


def test_a_full_disk_while_writing_shards_says_so_and_sends_nothing(hub, run_python, tmp_path):
    program = (
        "import resource; from datasets import Dataset; from longattn_hf.hub.publishing import publish; import os\n"
        "rows = Dataset.from_dict({'text': [os.urandom(500).hex() for _ in range(2000)]})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"publish(rows, {REPO!r})"
    )
    done = run_python(program, exits=1, TMPDIR=str(tmp_path))
    assert all(text in done.stderr for text in ("Cannot write ", "File too large", "TMPDIR"))
    assert not hub.log and not list(tmp_path.iterdir()), "and the half-written shards are gone"


def test_a_publish_through_xet_arrives_whole_and_repeats_as_nothing(hub, run_python, release, tmp_path):
    hub.xet_dir = tmp_path / "xet"
    done = run_python(
        "import os; del os.environ['HF_HUB_DISABLE_XET']; from longattn_hf import publish\n"
        f"[print(publish({str(release)!r}, {REPO!r}).commit) for _ in range(2)]"
    )
    assert len(set(done.stdout.split())) == 1 and len(commits_made(hub)) == 1
    assert not hub.requests("PUT", "") and hub.requests("GET", "/xet-write-token/")
    assert on_the_hub(hub) == published_files(release)


# what is refused before anything is sent


def test_an_unfinished_or_inconsistent_directory_is_refused(hub, release):
    card = (release / "README.md").read_text()
    cases = {
        "holds no README.md": lambda: (release / "README.md").unlink(),
        "once each; it holds them 1 and 0 times": lambda: (release / "README.md").write_text(card.replace(END, "")),
        "dataset_info says 8": lambda: (release / "README.md").write_text(
            card.replace("num_examples: 7", "num_examples: 8")
        ),
        "no configuration .* holds data/web/a.parquet": lambda: rows("web", 1).to_parquet(
            release / "data/web/a.parquet"
        ),
        "is not a whole Parquet file": lambda: (release / "data/book/train-00000-of-00002.parquet").write_bytes(
            b"PAR1"
        ),
    }
    (release / "data/web").mkdir()
    for message, damage in cases.items():
        (release / "README.md").write_text(card)
        damage()
        with pytest.raises(ValueError, match=message):
            publish(release, REPO)
        (release / "data/web/a.parquet").unlink(missing_ok=True)
    assert not hub.log


def ignored():
    return {
        "*.parquet": "data/arxiv/train-00000-of-00002.parquet and 5 more files .*'\\*.parquet'",
        "data/": "data/arxiv/train-00000-of-00002.parquet and 3 more files .*'data/'",
        "/report.json": "keeps report.json out of every commit .*'/report.json'",
        "# none\nREADME.md": "keeps README.md out of every commit .*'README.md'",
    }


@pytest.mark.parametrize("rule", ignored())
def test_what_a_hosted_gitignore_would_leave_out_is_refused_and_nothing_sent(hub, release, rule):
    hub.create(REPO, {".gitignore": f"*.log\n{rule}\n".encode()})
    before = hub.repos["dataset", REPO].files
    with pytest.raises(ValueError, match=f"the .gitignore of {REPO} keeps {ignored()[rule].removeprefix('keeps ')}"):
        publish(release, REPO)
    assert not hub.requests("PUT", "") and not hub.requests("POST", "/commit/")
    assert hub.repos["dataset", REPO].files == before
    hub.push(hub.repos["dataset", REPO], {".gitignore": b"*.log\n"})
    publish(release, REPO)
    assert load_dataset(REPO, "arxiv", split="train").num_rows == 7


def test_shards_that_the_hub_keeps_in_git_read_back_as_the_same(hub, release):
    hub.create(REPO, {".gitattributes": b"*.parquet !filter !diff !merge text\n"})
    first = publish(release, REPO)
    tree = hub.repos["dataset", REPO].resolve("main").tree
    assert not any(blob.sha256 for path, blob in tree.items() if path.endswith(".parquet"))
    assert publish(release, REPO) == first and len(commits_made(hub)) == 1
    assert load_dataset(REPO, "book", split="train").to_list() == rows("book", 5).to_list()


def test_files_that_were_loaded_by_themselves_are_named_in_a_warning(hub, release, caplog):
    hub.create(REPO, {"train.csv": b"a\n1\n", "notes.md": b"mine"})
    publish(release, REPO)
    assert "as the card names no configurations (train.csv)" in caplog.text
    caplog.clear()
    publish(release, REPO)
    assert not caplog.records, "from then on the card names some"


def test_a_configuration_that_names_a_folder_keeps_its_files(hub, release, tmp_path):
    rows("any", 1).to_parquet(tmp_path / "a.parquet")
    shard = (tmp_path / "a.parquet").read_bytes()
    theirs, ours = (
        {"config_name": "theirs", "data_dir": "data/arxiv/old"},
        {"config_name": "arxiv", "data_files": "data/arxiv/**/*.parquet"},
    )
    card = f"---\n{yaml.safe_dump({'configs': [theirs, ours]})}---\n{BEGIN}\nAn earlier release.\n{END}\n"
    hub.create(REPO, {"README.md": card.encode(), "data/arxiv/old/er/a.parquet": shard})
    publish(release, REPO)
    assert on_the_hub(hub)["data/arxiv/old/er/a.parquet"] == shard


def test_a_first_configuration_in_another_format_is_named_and_nothing_sent(hub, release, tmp_path):
    rows("mine", 2).to_parquet(tmp_path / "mine.parquet")
    card = b"---\nconfigs:\n- config_name: mine\n  data_files: mine.*\n---\n"
    hub.create(REPO, {"README.md": card, "mine.csv": b"a\n1\n"})
    with pytest.raises(ValueError, match=rf"'mine' of {REPO} stands first and is no Parquet \(mine.csv\)"):
        publish(release, REPO)
    assert not hub.requests("PUT", "") and not hub.requests("POST", "/commit/")
    hub.create("me/other", {"README.md": card, "mine.parquet": (tmp_path / "mine.parquet").read_bytes()})
    publish(release, "me/other")
    assert [load_dataset("me/other", name, split="train").num_rows for name in ("mine", "book")] == [2, 5]


def taken(shard):
    """Repositories of others, and what of them a release would replace or delete."""
    theirs = b"---\nconfigs:\n- config_name: book\n  data_files: %b\n---\n# Theirs\n"
    return {
        "a configuration": ({"README.md": theirs % b"my.parquet", "my.parquet": shard}, "configuration 'book'"),
        "a configuration beside ours": (
            {"README.md": theirs % b"my.parquet" + f"{BEGIN}\n{END}\n".encode(), "my.parquet": shard},
            "configuration 'book'",
        ),
        "files": (
            {"report.json": b'{"mine": 1}', "figures/scores.png": b"mine", "notes.md": b"mine"},
            "figures/scores.png, report.json",
        ),
        "shards": ({"data/book/train-mine.parquet": shard}, "data/book/train-mine.parquet"),
        "a configuration of our layout": (
            {"README.md": theirs % b"data/book/*.parquet", "data/book/a.parquet": shard},
            "configuration 'book'",
        ),
        "a configuration and files": (
            {
                "README.md": theirs % b"b.parquet",
                "b.parquet": shard,
                "report.json": b"1",
                "scores/train-1.parquet": shard,
            },
            "configuration 'book', report.json, scores/train-1.parquet",
        ),
    }


@pytest.mark.parametrize("name", taken(b""))
def test_what_is_not_ours_is_neither_replaced_nor_deleted(hub, release, tmp_path, name):
    rows("theirs", 2).to_parquet(tmp_path / "a.parquet")
    files, named = taken((tmp_path / "a.parquet").read_bytes())[name]
    hub.create(REPO, files)
    before = hub.repos["dataset", REPO].files
    with pytest.raises(ValueError, match=rf"{REPO} holds what no release has put there .* or delete: {named}\. "):
        publish(release, REPO)
    assert not hub.requests("PUT", "") and not hub.requests("POST", "/commit/")
    assert hub.repos["dataset", REPO].files == before


def test_a_release_is_known_by_the_markers_in_its_card(hub, release, tmp_path):
    publish(release, REPO)
    repo = hub.repos["dataset", REPO]
    card = repo.files["README.md"]
    bare = card.replace(BEGIN.encode(), b"").replace(END.encode(), b"")
    hub.push(repo, {"README.md": bare})
    new = write_release(tmp_path / "new", {"arxiv": 3, "book": 5})
    with pytest.raises(ValueError, match=f"or, of an earlier release, put {BEGIN} and {END} into the README.md"):
        publish(new, REPO)
    assert on_the_hub(hub) == published_files(release)
    # the same files again replace nothing
    publish(release, REPO)
    assert BEGIN.encode() in repo.files["README.md"] and on_the_hub(hub) == published_files(release)
    publish(new, REPO)
    assert on_the_hub(hub) == published_files(new)


COVERING = {"data_dir": "data"}, {"data_files": "**/*.parquet"}, {"data_files": "*.json"}, {"drop_labels": True}


@pytest.mark.parametrize("files", COVERING, ids=str)
def test_a_configuration_that_would_take_our_files_is_named_and_nothing_sent(hub, release, tmp_path, files):
    rows("mine", 2).to_parquet(tmp_path / "mine.parquet")
    front = {"configs": [{"config_name": "mine"} | files]}
    hub.create(REPO, {"README.md": f"---\n{yaml.safe_dump(front)}---\n".encode()})
    hub.push(hub.repos["dataset", REPO], {"data/train.parquet": (tmp_path / "mine.parquet").read_bytes()})
    before = hub.repos["dataset", REPO].files
    taken = "report.json" if files == COVERING[2] else "(report.json|data/arxiv/train-00000-of-00002.parquet)"
    with pytest.raises(ValueError, match=f"the configuration 'mine' of {REPO} .* would take this release's {taken}"):
        publish(release, REPO)
    assert not hub.requests("PUT", "") and hub.repos["dataset", REPO].files == before
    front["configs"][0] = {"config_name": "mine", "data_files": "data/*.parquet"}
    hub.push(hub.repos["dataset", REPO], {"README.md": f"---\n{yaml.safe_dump(front)}---\n".encode()})
    publish(release, REPO)
    assert load_dataset(REPO, "mine", split="train").to_list() == rows("mine", 2).to_list()
    assert load_dataset(REPO, "book", split="train").num_rows == 5


@pytest.mark.parametrize("front", ["1: a\n", "configs:\n- config_name: x\n  data_files: {a: b.csv}\n"])
def test_a_card_that_datasets_would_not_read_after_the_merge_is_refused(hub, release, front):
    hub.create(REPO, {"README.md": f"---\n{front}---\n".encode()})
    with pytest.raises(ValueError, match="datasets cannot read the README.md on the Hub"):
        publish(release, REPO)
    assert not hub.requests("PUT", "") and not hub.requests("POST", "/commit/")


def test_a_card_that_is_no_utf8_is_refused(hub, release):
    hub.create(REPO, {"README.md": "# Für alle\n".encode("latin-1")})
    with pytest.raises(ValueError, match="is not UTF-8"):
        publish(release, REPO)


def test_wrong_arguments_say_what_to_give(hub, release):
    with pytest.raises(ValueError, match="give 'owner/LongABC'"):
        publish(release, "LongABC")
    with pytest.raises(ValueError, match="give an output folder, a Dataset"):
        publish({"train": 1}, REPO)
    with pytest.raises(ValueError, match="without `tag`"):
        publish(release, REPO, create_pr=True, tag="v1")
    with pytest.raises(ValueError, match="cannot name a configuration"):
        publish(rows("a/b", 1), REPO)
    with pytest.raises(ValueError, match="attempts=0"):
        publish(release, REPO, attempts=0)
    assert not hub.log and Path(release).is_dir()


def test_a_file_that_changed_since_its_build_is_not_published(hub, release):
    shard, figure = release / "data/book/train-00000-of-00002.parquet", release / "report.html"
    figure.write_text("<p>page</p>")
    paths = {path.relative_to(release).as_posix(): path for path in (shard, figure, release / "README.md")}
    write_record(
        release / "work" / "finished.json",
        {"files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}},
    )
    # people's own words in the card are published
    (release / "README.md").write_text((release / "README.md").read_text() + "My own words.\n")
    publish(release, REPO)
    commits = commits_made(hub)
    for damage in (lambda: figure.write_text("<p>pagf</p>"), figure.unlink):
        damage()
        with pytest.raises(ValueError, match=r"^report.html changed since .* was built: build again"):
            publish(release, REPO)
    assert commits_made(hub) == commits
