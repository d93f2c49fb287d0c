"""Builds into object storage: a real server that speaks S3, in a process of its own, and fsspec's memory."""

import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from fsspec.implementations.memory import MemoryFileSystem

from longattn_hf.__main__ import main
from longattn_hf.explore.scored_corpus import ScoredCorpus
from longattn_hf.files import format_record
from longattn_hf.pipeline import build, load_config
from longattn_hf.pipeline import run as run_module
from longattn_hf.pipeline import storage as storage_module
from longattn_hf.pipeline import store as store_module
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.storage import StoredFolder, open_folder
from longattn_hf.pipeline.store import Store, StoreLock
from longattn_hf.selection.cut import Selection
from tests.support.recipes import WORDS, text, write_recipe
from tests.support.s3_server import serve_s3
from tests.support.staged import read, snapshot, stage


@pytest.fixture(scope="module")
def s3():
    with pytest.MonkeyPatch.context() as patch, serve_s3(patch):
        yield


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    # drawing them takes longer than all else that a build of this size does
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longattn_hf.report.figures.draw_figures", lambda *given: [])
        yield


@pytest.fixture(autouse=True)
def short_beats(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store_module, "_SECONDS_BETWEEN_BEATS", 0.1)
    monkeypatch.setattr(storage_module, "_SECONDS_BETWEEN_LOOKS", 0.05)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Another machine: one without a working folder."""
    return lambda: monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / f"cache-{random.random()}"))


@pytest.fixture(scope="module")
def recipe(tiny_llama, tmp_path_factory):
    """A configuration of two categories of two files, whose scores need no model."""
    folder = tmp_path_factory.mktemp("recipe")
    documents = {
        category: [{"id": f"{category}{i}", "text": text(1 + 8 * i, f"{category}{i}")} for i in range(12)]
        for category in ("arxiv", "book")
    }
    return write_recipe(folder, tiny_llama, documents, parts=2, documents_per_shard=4, scorers=["gzip"])


def run(recipe, output, **settings):
    return build(load_config(recipe, {"output_dir": str(output)} | settings), words="--config tiny.yaml")


def objects(address):
    """Every object of a store's folder, by way of fsspec alone."""
    files, root = fsspec.url_to_fs(address)
    files.invalidate_cache()
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def results(contents):
    """Every byte of the dataset, and of all shards."""
    shards = ("work/windows/", "work/scores-")
    return {name: b for name, b in contents.items() if not name.startswith("work/") or name.startswith(shards)}


def make(address, selection, configurations=("book", "code"), *, tokens=8, overwrite=False):
    """What a build does with its folder, without the build: a shard that names its settings, and a dataset."""
    folder = open_folder(address)
    with folder.owned():
        folder.claim({"window_tokens": tokens}, overwrite=overwrite)
        shard = folder.windows / "book" / f"of-{tokens}.parquet"
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.write_text(f"{tokens} tokens")
        if not folder.is_finished(selection):
            stage(folder, selection, configurations)
            folder.finish(selection)


def rows_in(address):
    """The selections that a store's data are of, and the settings that its shards are of."""
    held = objects(address)
    data = (pq.read_table(BytesIO(b))["selection"].to_pylist() for name, b in held.items() if name.startswith("data/"))
    shards = {b.decode() for name, b in held.items() if name.startswith("work/windows/")}
    return {row for rows in data for row in rows}, shards


@pytest.fixture(scope="module")
def local(recipe, tmp_path_factory):
    """What local builds make: of a quarter of the windows, and of an eighth."""
    folder, made = tmp_path_factory.mktemp("local"), []
    for fraction in (0.25, 0.125):
        run(recipe, folder / "out", fraction=fraction)
        made.append(results(snapshot(folder / "out")))
    return made


@pytest.mark.parametrize("address", ["s3://bucket/a folder/out/", "memory://corpus/out"])
def test_a_build_in_a_store_has_the_bytes_of_a_local_one_and_so_has_another_selection(
    request, recipe, local, elsewhere, monkeypatch, address
):
    if address.startswith("s3"):
        request.getfixturevalue("s3")
    result = run(recipe, address)
    held = objects(address)
    assert results(held) == local[0] and result.scored_windows > 100
    assert {name for name in held if name not in local[0]} == {
        f"work/{name}" for name in ("settings.json", "ranking.json", "shards.parquet", "finished.json", "placing.json")
    }, "no lock, and nothing of this machine's"
    assert run(recipe, address).scored_windows == 0 and objects(address) == held
    # a smaller set takes its place, from a machine that has seen nothing of the first, which then has it back
    here = os.environ["LONGATTN_CACHE"]
    elsewhere()
    assert run(recipe, address, fraction=0.125).scored_windows == 0
    assert results(objects(address)) == local[1] != local[0]
    kept = load_dataset("parquet", data_files=f"{address.rstrip('/')}/data/book/*.parquet")
    assert len(kept["train"]) == sum(
        len(pq.read_table(BytesIO(content))) for name, content in local[1].items() if "data/book" in name
    )
    monkeypatch.setenv("LONGATTN_CACHE", here)
    assert run(recipe, address).scored_windows == 0 and objects(address) == held


def test_a_build_that_is_killed_goes_on_on_another_machine_from_what_it_had_finished(
    s3, recipe, local, elsewhere, caplog
):
    address = "s3://bucket/killed"
    program = (
        "import time\n"
        "from longattn_hf.pipeline import scoring, storage, store\n"
        "storage._SECONDS_BETWEEN_LOOKS, store._SECONDS_BETWEEN_BEATS, write = 0.05, 0.2, scoring.write_shard\n"
        # it stops at its fourth shard
        "left = [0, 0, 0, 600]\n"
        "scoring.write_shard = lambda *given: (time.sleep(left.pop(0)), write(*given))\n"
        "from longattn_hf.__main__ import main\n"
        f"main(['build', '--config', {str(recipe)!r}, '--output_dir', {address!r}])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    while sum(name.startswith("work/scores-") for name in Store(address).sizes()) < 3:
        assert child.poll() is None
        time.sleep(0.1)
    elsewhere()
    with pytest.raises(ValueError, match=rf"{address} is being built by process {child.pid} on \S+, started 20"):
        run(recipe, address)
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = objects(address)
    assert "work/locks/000001.json" in left and "README.md" not in left
    finished = {name: content for name, content in left.items() if name.startswith("work/scores-")}
    rows = sum(pq.read_metadata(BytesIO(content)).num_rows for content in finished.values())
    elsewhere()
    result = run(recipe, address)
    assert "looking for a sign of life of its owner, for up to 1 seconds" in caplog.text
    windows = sum(facts.windows for facts in result.categories.values())
    assert len(finished) == 3 and result.scored_windows == windows - rows > 0
    assert results(objects(address)) == local[0] and not any("lock" in name for name in objects(address))


def test_what_the_network_kept_from_the_store_is_sent_by_the_same_command(
    recipe, local, monkeypatch, capsys, tmp_path
):
    address, score = "s3://bucket/out", run.__globals__["build"].__globals__["score_windows"]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with serve_s3(monkeypatch) as server:

        def score_alone(*given, **named):
            server.kill()
            server.wait()
            return score(*given, **named)

        monkeypatch.setattr(run_module, "score_windows", score_alone)
        words = ["build", "--config", str(recipe), "--output_dir", address]
        with pytest.raises(SystemExit) as refused:
            main(words)
        assert refused.value.code == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"build: {address} cannot be reached, or not as it should: Could not connect to ")
        assert last.endswith("the same command goes on from what is finished.")
    # the server begins with nothing
    with serve_s3(monkeypatch):
        main(words)
        assert f"{address}: 0 windows scored" in capsys.readouterr().out
        assert results(objects(address)) == local[0]


def test_overwriting_removes_the_other_build_from_the_store(recipe, local, elsewhere):
    address = "memory://overwritten/out"
    run(recipe, address, documents_per_shard=2)
    many = objects(address)
    elsewhere()
    with pytest.raises(ValueError, match=f"{address} holds work with other settings: documents_per_shard was 2"):
        run(recipe, address)
    assert objects(address) == many
    run(recipe, address, overwrite=True)
    assert results(objects(address)) == local[0] and len(many) > len(objects(address))


def test_a_working_folder_of_another_build_is_none_of_the_stores_concern(elsewhere, monkeypatch):
    address, here = "memory://emptied/out", os.environ["LONGATTN_CACHE"]
    make(address, "first", tokens=8)
    fsspec.filesystem("memory").rm("/emptied", recursive=True)
    make(address, "second", tokens=9)
    assert rows_in(address) == ({"second"}, {"9 tokens"})
    # another machine overwrites it, and the first one overwrites that again
    elsewhere()
    make(address, "third", tokens=8, overwrite=True)
    assert rows_in(address) == ({"third"}, {"8 tokens"})
    monkeypatch.setenv("LONGATTN_CACHE", here)
    with pytest.raises(ValueError, match=f"{address} holds work with other settings: window_tokens was 8"):
        make(address, "second", tokens=9)
    make(address, "second", tokens=9, overwrite=True)
    assert rows_in(address) == ({"second"}, {"9 tokens"})


@pytest.mark.parametrize("name", ["thesis.txt", "data/book/mine.parquet", "work/notes.txt"])
def test_objects_of_others_are_refused_and_left_alone(s3, recipe, name):
    address = f"s3://bucket/others-{name.count('/')}"
    Store(address).write(name, "mine")
    with pytest.raises(ValueError, match=f"{address} holds files that no build has put there .{name}"):
        run(recipe, address)
    assert objects(address) == {name: b"mine"}


def test_objects_that_others_put_into_a_builds_folder_stay():
    address, mine = "memory://beside/out", {"thesis.txt", "data/book/mine.txt", "figures/mine.png"}
    make(address, "first")
    for name in mine:
        Store(address).write(name, "mine")
    make(address, "second", ("book",))
    make(address, "third", tokens=9, overwrite=True)
    assert {name for name, content in objects(address).items() if content == b"mine"} == mine
    Store(address).write("figures/fourth.png", "mine")
    before = objects(address)
    with pytest.raises(ValueError, match=f"{address} holds figures/fourth.png, which no build has put there"):
        make(address, "fourth", tokens=9)
    assert objects(address) == before


def test_builds_in_folders_of_one_another_leave_each_other_alone():
    outer, inner = "memory://nested/out", "memory://nested/out/below"
    make(outer, "outer")
    make(inner, "inner")
    before = objects(inner)
    make(outer, "overwritten", tokens=9, overwrite=True)
    assert objects(inner) == before and rows_in(outer) == ({"overwritten"}, {"9 tokens"})


def test_a_build_whose_lock_was_taken_over_changes_nothing_more(recipe, monkeypatch):
    address, score = "memory://lost/out", run_module.score_windows

    def score_and_lose(*given, **named):
        # as if this machine had slept for long
        name = "work/locks/000002.json"
        Store(address).write(name, format_record(owner("heir"), name))
        time.sleep(0.5)
        before.update(objects(address))
        return score(*given, **named)

    before = {}
    monkeypatch.setattr(run_module, "score_windows", score_and_lose)
    with pytest.raises(ValueError, match=f"{address} is being built by process 7 on heir"):
        run(recipe, address)
    assert objects(address).keys() == before.keys() - {"work/locks/000001.json"}


def test_a_card_that_was_there_before_keeps_its_words(recipe, elsewhere):
    address = "memory://carded/out"
    Store(address).write("README.md", "# Mine\n\nMy own words.\n")
    for fraction in (0.25, 0.125):
        run(recipe, address, fraction=fraction)
        card = Store(address).read("README.md").decode()
        assert "My own words." in card and "config_name: book" in card
        elsewhere()


class Frail(MemoryFileSystem):
    """A store whose connection breaks for good after some changes."""

    protocol, store, pseudo_dirs, left, sent = "frail", {}, [""], None, []

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("frail://", "memory://"))

    def _change(self):
        if Frail.left is not None:
            Frail.left -= 1
            if Frail.left < 0:
                raise ConnectionError("the connection is broken")

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self._change()
        super().pipe_file(path, value, mode=mode, **kwargs)

    def put_file(self, local, path, **named):
        self._change()
        super().put_file(local, path, **named)
        Frail.sent.append(path.removeprefix("/corpus/out/"))

    def rm_file(self, path):
        self._change()
        super().rm_file(path)


fsspec.register_implementation("frail", Frail)


def test_a_reader_meets_the_old_set_the_new_one_or_none_wherever_sending_ends(monkeypatch, tmp_path, elsewhere):
    monkeypatch.setattr(storage_module, "_SECONDS_BETWEEN_LOOKS", 100)
    monkeypatch.setattr(store_module, "_SECONDS_BETWEEN_BEATS", 0.02)
    number, states, goes_on = 0, set(), False
    while "finished" not in states:
        number += 1
        Frail.store.clear()
        elsewhere()
        make("frail://corpus/out", "first")
        Frail.sent.clear()
        monkeypatch.setattr(Frail, "left", number)
        try:
            make("frail://corpus/out", "second", ("book", "poems"))
            states.add("finished")
        except OSError as error:
            assert "the connection is broken" in str(error)
        monkeypatch.setattr(Frail, "left", None)
        copy = tmp_path / str(number) / "out"
        fsspec.filesystem("frail").get("frail://corpus/out", str(copy), recursive=True)
        found = {name: read(copy, name) for name in ("book", "code", "poems")}
        whole = {
            "first": {"book": {"first"}, "code": {"first"}, "poems": None},
            "second": {"book": {"second"}, "code": None, "poems": {"second"}},
            "replaced": {"book": None, "code": None, "poems": None},
        }
        state = next((name for name, selection in whole.items() if found == selection), None)
        assert state is not None, f"at change {number}: {found}"
        if state == "replaced":
            assert "is being replaced" in (copy / "README.md").read_text()
        rows = {row for path in copy.glob("data/*/*.parquet") for row in pq.read_table(path)["selection"].to_pylist()}
        assert len(rows) <= 1, "files of two selections"
        states.add(state)
        # the same command, here or elsewhere
        if number % 2:
            elsewhere()
        before, Frail.sent[:] = {name for name in Frail.sent if name.startswith("data/")}, []
        make("frail://corpus/out", "second", ("book", "poems"))
        held = {name for name in objects("frail://corpus/out") if not name.startswith("work/")}
        data = {f"data/{name}/train-00000-of-00001.parquet" for name in ("book", "poems")}
        assert held == {"README.md", "figures/second.png"} | data
        assert before.isdisjoint(Frail.sent), "what was sent is not sent again"
        goes_on |= bool(before) and "finished" not in states
    assert states == {"first", "second", "replaced", "finished"} and number > 8 and goes_on


def owner(name):
    return {"host": name, "pid": 7, "started": "now", "token": name}


def race(address, names):
    """Returns who of as many as take a lock at once gets it, and gives signs of life while the others hope."""
    done, locks = threading.Event(), [StoreLock(Store(address), owner(name)) for name in names]

    def take(lock):
        try:
            lock.take(None)
        except ValueError as error:
            assert f"{address} is being built by process 7 on {names[0][:4]}" in str(error)
            return None
        while not done.wait(0.02):
            lock.renew()
        return lock

    with ThreadPoolExecutor(len(names)) as pool:
        running = [pool.submit(take, lock) for lock in locks]
        while sum(one.done() for one in running) < len(names) - 1:
            time.sleep(0.02)
        done.set()
        (first,) = filter(None, (one.result() for one in running))
    return first


def test_of_many_who_take_a_lock_one_gets_it_and_who_falls_silent_loses_it_to_one(s3):
    address = "s3://bucket/locked"
    first = race(address, [f"host{number}" for number in range(6)])
    second = race(address, [f"heir{number}" for number in range(6)])
    time.sleep(0.4)
    with pytest.raises(ValueError, match="s3://bucket/locked is being built by process 7 on heir"):
        first.check()
    second.check()
    second.release()
    assert objects(address) == {}


def test_the_owner_of_the_working_folder_waits_for_no_sign_of_life(monkeypatch):
    monkeypatch.setattr(store_module, "_SECONDS_BETWEEN_BEATS", 1000)
    store = Store("memory://waits/out")
    StoreLock(store, owner("former")).take(None)
    StoreLock(store, owner("next")).take("former")
    assert store.sizes().keys() == {"work/locks/000002.json"}


class Plain(MemoryFileSystem):
    """A store without conditional puts."""

    protocol, store, pseudo_dirs = "plain", {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("plain://", "memory://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value)


def test_a_store_without_conditional_puts_is_said_once_and_has_one_owner_all_the_same(monkeypatch, caplog):
    fsspec.register_implementation("plain", Plain)
    monkeypatch.setattr(store_module, "_SECONDS_TO_SETTLE", 0.2)
    race("plain://out", ["host0", "host1"])
    assert "plain://out has no conditional put" in caplog.text


def test_rows_are_scored_selected_and_looked_at_in_a_store(s3, recipe, capsys):
    folder = "s3://bucket/tables"
    rows = [{"id": str(n), "text": " ".join(WORDS[: n + 1]), "category": "book"} for n in range(8)]
    Dataset.from_list(rows).to_parquet(f"{folder}/rows.parquet")
    main(["score", f"{folder}/rows.parquet", "--scorer", "[length, gzip]", "-o", f"{folder}/scored.parquet"])
    main(["select", f"{folder}/scored.parquet", "--fraction", "0.5"])
    said = capsys.readouterr().out
    assert f"{folder}/scored-kept.parquet: 4 of 8 rows kept by " in said
    assert pq.read_table(f"{folder}/scored-kept.parquet", filesystem=fsspec.filesystem("s3"))["id"].to_pylist() == [
        "4", "5", "6", "7"
    ]  # fmt: skip
    assert not Path("s3:").exists()
    for command, message in {
        ("score", "s3://bucket/none.parquet", "-o", "x.parquet"): "s3://bucket/none.parquet",
        ("score", f"{folder}/rows.parquet", "-o", "nowhere://x/y.parquet"): "Protocol not known: nowhere",
        ("publish", "s3://bucket/out", "me/x"): "must be a path of this machine, not an address",
        ("watch", "s3://bucket/none", "--once"): "s3://bucket/none holds no build on this machine",
    }.items():
        with pytest.raises(SystemExit):
            main(list(command))
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_build_in_a_store_is_watched_where_it_runs_and_explored_from_anywhere(recipe, elsewhere, capsys):
    address = "memory://seen/out"
    result = run(recipe, address)
    main(["watch", address, "--once"])
    assert re.search(r"files sent +5 \(100%\)", capsys.readouterr().out)
    elsewhere()
    corpus = ScoredCorpus(address)
    assert len(corpus) == result.scored_windows and not corpus.running and corpus.scores[0] == "gzip_ratio"
    kept = corpus.select(Selection(score="gzip_ratio", fraction=0.25)).kept
    assert kept.sum() == sum(facts.kept_windows for facts in result.categories.values())
    row = int(kept.argmax())
    assert corpus.read_window(row)["id"] == corpus.id_of(row)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere://x", "nowhere://x cannot be reached: Protocol not known: nowhere"),
        ("hf://datasets/me/x", "holds no folder of objects: give s3://bucket/folder.*--push_to_hub publishes"),
        ("simplecache::s3://x/y", "holds no folder of objects"),
        ("memory:///", "memory:/// holds no folder of objects"),
        ("s3:/bucket/out", "s3:/bucket/out has one slash where an address has two"),
    ],
)
def test_addresses_that_hold_no_folder_are_refused(recipe, address, message):
    with pytest.raises(ValueError, match=message):
        run(recipe, address)


def test_a_missing_client_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ValueError, match="Install s3fs.*pip install 'longattn_hf.s3.'"):
        open_folder("s3://bucket/out")


def test_a_bucket_that_is_not_there_is_named(s3, recipe):
    with pytest.raises(OSError, match="s3://nobodys/out cannot be reached.*bucket does not exist.*goes on from"):
        run(recipe, "s3://nobodys/out")


def test_objects_that_consoles_make_for_folders_are_none(s3, recipe):
    boto3 = pytest.importorskip("boto3")
    for key in ("console/", "console/out/", "console/out/work/"):
        boto3.client("s3").put_object(Bucket="bucket", Key=key)
    store = Store("s3://bucket/console/out")
    assert store.sizes() == {}
    names = ["with [brackets] *?", "日本語 😀/a#b%20c.txt"]
    for name in names:
        store.write(name, name)
    assert store.sizes() == {name: len(name.encode()) for name in names}
    assert [store.read(name).decode() for name in names] == names


def test_no_message_holds_a_password():
    assert str(Store("ftp://me:secret@host/folder")) == "ftp://host/folder"
    assert str(Store("memory://container@account/folder")) == "memory://container@account/folder"


def test_file_addresses_are_folders_and_stored_ones_travel(tmp_path):
    assert type(open_folder(f"file://{tmp_path}/out")) is BuildFolder
    assert open_folder(f"file://{tmp_path}/out").path == tmp_path / "out"
    folder = open_folder("memory://x/out/")
    assert pickle.loads(pickle.dumps(folder)).path == folder.path == StoredFolder("memory://x/out").path
    assert folder.path.is_relative_to(os.environ["LONGATTN_CACHE"])
