"""Whose an output folder is: nobody's files are lost, one build at a time, and no reader meets two selections."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longattn_hf import files
from longattn_hf.files import read_record, write_record
from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.pipeline.folder import BuildFolder
from tests.support.staged import read, snapshot, stage

SETTINGS = {"model": "m", "window_tokens": 8}


@pytest.fixture
def folder(tmp_path):
    folder = BuildFolder(tmp_path / "out")
    with folder.owned():
        folder.claim(SETTINGS, overwrite=False)
        stage(folder, "first")
        folder.finish("first")
    return folder


@pytest.mark.parametrize("name", ["data/mine.jsonl", "report.json", "thesis.txt", "work/notes.txt"])
def test_a_folder_with_somebodys_files_is_refused_and_left_alone(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match="holds files that no build has put there .*choose another output_dir"):
        with BuildFolder(tmp_path / "out").owned():
            raise AssertionError("unreachable")
    assert snapshot(tmp_path / "out") == {name: b"mine"}


@pytest.mark.parametrize("left", [(), ("work",), ("work/.lock", "work/owner.json"), (".DS_Store",)])
def test_an_empty_folder_and_what_a_kill_at_the_start_leaves_are_taken(tmp_path, left):
    for name in left:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name == "work" else path.write_text("")
    folder = BuildFolder(tmp_path / "out")
    with folder.owned():
        folder.claim(SETTINGS, overwrite=False)
    assert read_record(folder.settings) == SETTINGS


def test_overwriting_removes_what_builds_made_and_nothing_else(folder):
    mine = {"thesis.txt": b"mine", "data/book/notes.txt": b"mine", "figures/holiday.png": b"mine"}
    for name, content in mine.items():
        (folder.path / name).write_bytes(content)
    before = snapshot(folder.path)
    with folder.owned():
        folder.claim(SETTINGS, overwrite=True)
    assert snapshot(folder.path) == before, "an equal build has nothing to discard"
    with pytest.raises(ValueError, match="window_tokens was 8 and is now 9.*another output_dir, or pass --overwrite"):
        folder.claim(SETTINGS | {"window_tokens": 9}, overwrite=False)
    with folder.owned():
        folder.claim(SETTINGS | {"window_tokens": 9}, overwrite=True)
    kept = {name: content for name, content in snapshot(folder.path).items() if not name.startswith("work/")}
    assert kept == mine
    assert not (folder.data / "code").exists()


def test_overwriting_through_a_link_keeps_the_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder.path)
    linked = BuildFolder(tmp_path / "link")
    with linked.owned():
        linked.claim(SETTINGS | {"window_tokens": 9}, overwrite=True)
    assert (tmp_path / "link").is_symlink() and not folder.card.exists()


def test_a_damaged_record_is_named_and_can_be_overwritten(folder):
    folder.settings.write_text('{"model": ')
    with pytest.raises(ValueError, match="settings.json is damaged.*pass --overwrite true"):
        folder.claim(SETTINGS, overwrite=False)
    folder.claim(SETTINGS, overwrite=True)
    assert read_record(folder.settings) == SETTINGS


def test_a_damaged_record_of_the_same_build_costs_none_of_its_windows(folder):
    shard = folder.windows / "book" / "000-00000-00000.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"windows")
    folder.settings.write_text("")
    with folder.owned():
        folder.claim(SETTINGS, overwrite=True)
    assert shard.exists() and read_record(folder.settings) == SETTINGS and folder.is_finished("first")


@pytest.mark.parametrize("lost", ["finished", "placing"])
def test_a_folder_with_a_damaged_mark_still_knows_its_files(folder, lost):
    getattr(folder, lost).write_text("{")
    stage(folder, "second")
    folder.finish("second")
    assert folder.is_finished("second") and read(folder.path, "book") == {"second"}
    assert not (folder.figures / "first.png").exists()


def test_without_any_mark_what_a_build_would_write_is_taken_for_its_own(tmp_path):
    folder = BuildFolder(tmp_path / "out")
    with folder.owned():
        folder.claim(SETTINGS, overwrite=False)
        for _ in range(2):
            stage_marked(folder)
            folder.finish("first")
            assert folder.is_finished("first") and read(folder.path, "book") == {"first"}
            assert folder.card.read_text().count(BEGIN) == 1
            folder.finished.write_text("{")
            folder.placing.unlink()


def test_a_kill_at_any_moment_of_overwriting_leaves_what_the_same_command_overwrites(tmp_path, monkeypatch):
    other, number = SETTINGS | {"window_tokens": 9}, 0
    while True:
        number += 1
        folder = BuildFolder(tmp_path / str(number))
        with folder.owned():
            folder.claim(SETTINGS, overwrite=False)
            for name in ("book/0.parquet", "code/0.parquet"):
                (folder.windows / name).parent.mkdir(parents=True)
                (folder.windows / name).write_bytes(b"windows")
            stage(folder, "first")
            folder.finish("first")
            with monkeypatch.context() as patched:
                count = kill_at(patched, number)
                try:
                    folder.claim(other, overwrite=True)
                except Killed:
                    pass
            if count[0] < number:
                break
        with folder.owned():
            folder.claim(other, overwrite=True)
        left = snapshot(folder.path).keys() - {"work/.lock"}
        assert left == {"work/settings.json"} and read_record(folder.settings) == other
    assert number > 10


def test_leftovers_of_kills_are_swept_and_nobody_elses(folder):
    ours = ["work/windows/book/.0.parquet.0123abcd.tmp", "work/.settings.json.0123abcd.tmp", ".README.md.0123abcd.tmp"]
    ours += ["data/book/.train-00000-of-00001.parquet.89abcdef.tmp"]
    others = [
        ".thesis.txt.0123abcd.tmp",
        "data/book/.notes.txt.0123abcd.tmp",
        "notes.tmp",
        "work/windows/book/notes.tmp",
    ]
    for name in (*ours, *others):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_bytes(b"half")
    before = snapshot(folder.path)
    with folder.owned():
        pass
    assert before.keys() - snapshot(folder.path).keys() == set(ours)


def test_a_card_that_was_there_before_keeps_its_words_whenever_the_build_is_killed(tmp_path, monkeypatch):
    folder = BuildFolder(tmp_path / "out")
    folder.path.mkdir()
    folder.card.write_text("---\nlicense: mit\n---\nMy own words.\n")
    with folder.owned():
        folder.claim(SETTINGS, overwrite=False)
        for number in range(1, 100):
            stage_marked(folder)
            with monkeypatch.context() as patched:
                kill_at(patched, number)
                try:
                    folder.finish("first")
                    break
                except Killed:
                    pass
    card = folder.card.read_text()
    assert "My own words." in card and "license: mit" in card and f"{BEGIN}\nfirst\n{END}" in card
    assert folder.is_finished("first") and read(folder.path, "book") == {"first"} and number > 5


def stage_marked(folder):
    clear(folder)
    stage(folder, "first", ("book",))
    card = folder.staging / "README.md"
    card.write_text(card.read_text().replace("---\nfirst\n", f"---\n{BEGIN}\nfirst\n{END}\n"))


def clear(folder):
    for path in sorted(folder.staging.rglob("*"), reverse=True) if folder.staging.exists() else ():
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_foreign_file_in_the_way_of_a_selection_is_named_and_kept(folder):
    (folder.path / "figures" / "second.png").write_text("mine")
    before = {name: content for name, content in snapshot(folder.path).items() if not name.startswith("work/")}
    stage(folder, "second")
    with pytest.raises(ValueError, match="holds figures/second.png, which no build has put there"):
        folder.finish("second")
    assert {n: c for n, c in snapshot(folder.path).items() if not n.startswith("work/")} == before


def test_a_finished_folder_is_known_byte_by_byte(folder):
    assert folder.is_finished("first") and not folder.is_finished("second")
    shard = folder.data / "book" / "train-00000-of-00001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    assert not folder.is_finished("first"), "of equal size, and another"
    shard.write_bytes(whole)
    for damage in ("", "[]", '{"fingerprint": "first"}', '{"fingerprint": "first", "files": 3}'):
        folder.finished.write_text(damage)
        assert not folder.is_finished("first")


class Killed(BaseException):
    pass


def kill_at(monkeypatch, number):
    """Lets the process end at the given operation on files; returns a count of them."""
    count = [0]

    def counted(operation):
        def run(*arguments, **named):
            count[0] += 1
            if count[0] == number:
                raise Killed
            return operation(*arguments, **named)

        return run

    for name in ("replace", "unlink", "rmdir", "rename", "mkdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(files.os, "fsync", counted(os.fsync))
    return count


def test_a_kill_at_any_moment_of_a_second_selection_shows_the_old_set_the_new_one_or_none(tmp_path, monkeypatch):
    number, states = 0, set()
    while True:
        number += 1
        folder = BuildFolder(tmp_path / str(number) / "out")
        with folder.owned():
            folder.claim(SETTINGS, overwrite=False)
            stage(folder, "first", ("book", "code"))
            folder.finish("first")
            stage(folder, "second", ("book", "poems"))
            with monkeypatch.context() as patched:
                count = kill_at(patched, number)
                try:
                    folder.finish("second")
                except Killed:
                    pass
            if count[0] < number:
                break
        found = {name: read(folder.path, name) for name in ("book", "code", "poems")}
        whole = {
            "first": {"book": {"first"}, "code": {"first"}, "poems": None},
            "second": {"book": {"second"}, "code": None, "poems": {"second"}},
            "replaced": {"book": None, "code": None, "poems": None},
        }
        state = next((name for name, selection in whole.items() if found == selection), None)
        assert state is not None, f"at operation {number}: {found}"
        states.add(state)
        if state == "replaced":
            assert "is being replaced" in folder.card.read_text()
        # the same command again
        with folder.owned():
            assert state == "second" or not folder.is_finished("second")
            if not folder.is_finished("second"):
                stage_again(folder)
        assert folder.is_finished("second") and not (folder.data / "code").exists()
        assert {name: read(folder.path, name) for name in ("book", "code", "poems")} == whole["second"]
        assert not list(folder.path.rglob("*.tmp"))
    assert states == {"first", "second", "replaced"} and number > 10


def stage_again(folder):
    clear(folder)
    stage(folder, "second", ("book", "poems"))
    folder.finish("second")


def hold(path):
    program = (
        "import sys, time; from longattn_hf.pipeline.folder import BuildFolder\n"
        f"with BuildFolder({str(path)!r}).owned(): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_folder_has_one_owner_who_is_named_and_a_dead_one_lets_go(tmp_path):
    folder = BuildFolder(tmp_path / "out")
    holder = hold(folder.path)
    try:
        with pytest.raises(ValueError, match=rf"is being built by process {holder.pid} on \S+, started 20.*end it"):
            with folder.owned():
                raise AssertionError("unreachable")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with folder.owned():
        assert json.loads(folder.owner.read_text())["pid"] == os.getpid()
    assert not folder.owner.exists()


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_where_files_cannot_be_locked_an_owner_is_known_by_host_process_and_start(tmp_path, monkeypatch):
    def no_flock(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_flock)
    monkeypatch.setattr("longattn_hf.pipeline.folder._SECONDS_TO_LET_GO", 0.2)
    folder = BuildFolder(tmp_path / "out")
    with folder.owned():
        marker = folder.lock.read_text()
        with pytest.raises(ValueError, match=f"is being built by process {os.getpid()} on"), folder.owned():
            raise AssertionError("unreachable")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    pid, host, *start = marker.splitlines()
    assert pid == str(os.getpid()) and start
    dead = [str(gone.pid), host, *start]
    # of a process that has this one's number again
    reused = [pid, host, str(int(start[0]) - 1) if start[0].isdigit() else start[0][:-1] + "0"]
    for left in (dead, reused):
        folder.lock.write_text("\n".join(left) + "\n")
        with folder.owned():
            pass
    folder.lock.write_text("\n".join([pid, "another-host", *start]) + "\n")
    write_record(folder.owner, {"pid": 7, "host": "another-host", "started": "then"})
    with pytest.raises(ValueError, match="being built by process 7 on another-host, started then"), folder.owned():
        raise AssertionError("unreachable")


@pytest.mark.parametrize("linked", ["out", "out/data", "out/work"])
def test_links_in_place_of_folders_stay_and_are_followed(tmp_path, linked):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / linked).parent.mkdir(exist_ok=True)
    (tmp_path / linked).symlink_to(tmp_path / "elsewhere")
    folder = BuildFolder(tmp_path / "out")
    if linked == "out/data":
        # a folder that is there before a build is somebody's
        with pytest.raises(ValueError, match=r"no build has put there \(data\)"), folder.owned():
            raise AssertionError("unreachable")
        (tmp_path / linked).unlink()
        folder.claim(SETTINGS, overwrite=False)
        (tmp_path / linked).symlink_to(tmp_path / "elsewhere")
    for selection in ("first", "second"):
        with folder.owned():
            folder.claim(SETTINGS, overwrite=False)
            stage(folder, selection)
            folder.finish(selection)
        assert read(folder.path, "book") == {selection}
    assert (tmp_path / linked).is_symlink() and any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("limit", [100, 900, 2000])
def test_a_full_disk_is_named_and_the_folder_stays_usable(tmp_path, run_python, limit):
    program = (
        "import resource, sys; from pathlib import Path; from tests.pipeline.test_folder import *\n"
        f"folder = BuildFolder({str(tmp_path / 'out')!r})\n"
        "with folder.owned():\n"
        "    folder.claim(SETTINGS, overwrite=False); stage(folder, 'first')\n"
        f"    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1))\n"
        "    try: folder.finish('first')\n"
        "    except OSError as error: print(error)\n"
        "    else: print('finished')\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "with folder.owned():\n"
        "    folder.claim(SETTINGS, overwrite=False)\n"
        "    if not folder.is_finished('first'): shutil.rmtree(folder.staging); stage(folder, 'first')\n"
        "    folder.finish('first') if not folder.is_finished('first') else None\n"
        "    assert folder.is_finished('first') and not list(folder.path.rglob('*.tmp'))\n"
    )
    printed = run_python(program).stdout
    assert "finished" in printed or f"Cannot write {tmp_path}/out/" in printed and "File too large" in printed


def test_a_build_whose_work_lies_on_another_disk_is_put_in_place(tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    elsewhere = memory / f"longattn-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "work").symlink_to(elsewhere)
        folder = BuildFolder(tmp_path / "out")
        with folder.owned():
            folder.claim(SETTINGS, overwrite=False)
            stage(folder, "first")
            folder.finish("first")
        assert folder.is_finished("first") and read(folder.path, "book") == {"first"}
    finally:
        shutil.rmtree(elsewhere)


def test_what_a_worker_was_writing_that_died_is_swept_when_the_others_are_through(tmp_path):
    folder = BuildFolder(tmp_path / "out")
    left, theirs = (folder.windows / name for name in (".0.parquet.0123abcd.tmp", ".notes.tmp"))
    with folder.owned():
        folder.windows.mkdir()
        left.write_bytes(b"PAR1")
        theirs.write_bytes(b"")
    assert not left.exists() and theirs.exists()
