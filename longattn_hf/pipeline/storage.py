"""An output folder in object storage: a working folder on this machine, and what makes the store hold the same.

The build runs in the working folder as in any other. Its finished shards are sent while it goes on, its dataset when
it is finished; what another machine has sent is fetched first. So a build that is killed goes on anywhere.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from longattn_hf.files import format_record, is_address, parse_record, read_record, write_record
from longattn_hf.hub.layout import CARD, FINISHED
from longattn_hf.pipeline.folder import BEING_REPLACED, PLACING, BuildFolder
from longattn_hf.pipeline.heartbeat import Progress
from longattn_hf.pipeline.processes import ALONE
from longattn_hf.pipeline.store import Store, StoreLock

logger = logging.getLogger(__name__)

_SETTINGS, _CARD_BEFORE = "work/settings.json", "work/card-before.json"
# what a build goes on from, in the order in which it is made; the lists are small and change their bytes, not their
# size, shards of one name and size have the same bytes or know that they are of something else
_LISTS = (_SETTINGS, "work/sources.json", "work/ranking.json", _CARD_BEFORE, "work/shards.parquet")
_SHARDS = ("work/windows/*/[!.]*.parquet", "work/scores*/*/[!.]*.parquet")
_SECONDS_BETWEEN_LOOKS = 2.0
# and no sooner than after so many times what a look took
_LOOKS_TO_REST = 20


def open_folder(output: str) -> BuildFolder:
    """Returns the layout of an output folder; of one in a store, that of its working folder.

    Raises:
        ValueError: There is no such store, its client is not installed, or it is an address with one slash.
    """
    if re.match(r"\w{2,}:/(?!/)", output):
        raise ValueError(f"{output} has one slash where an address has two, as s3://bucket/folder.")
    if output.startswith(("file://", "local://")):
        output = output.partition("://")[2]
    return StoredFolder(output) if is_address(output) else BuildFolder(output)


class StoredFolder(BuildFolder):
    """A build's folder in a store. All paths are those of its working folder, which LONGATTN_CACHE says the place of.

    Args:
        address: The store's folder, as fsspec takes it.
    """

    elsewhere = "let LONGATTN_CACHE name another folder"
    _mirror: "_Mirror | None"

    def __init__(self, address: str) -> None:
        # refused before anything is done
        self._shown = str(Store(address)).rstrip("/")
        self.address, self._mirror = address.rstrip("/"), None
        cache = os.environ.get("LONGATTN_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/longattn_hf"
        name = re.sub(r"[^\w.-]", "_", self.address.rpartition("/")[2])[:50]
        key = sha256(self.address.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        super().__init__(Path(cache).expanduser() / f"{name}-{key}")

    def __str__(self) -> str:
        return self._shown

    def __reduce__(self) -> tuple[type, tuple[str]]:
        # what works elsewhere writes into the folder, and has no part in the mirror
        return StoredFolder, (self.address,)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keeps the store's folder to one build at a time, and makes it hold what the working folder does.

        Raises:
            ValueError: As for any folder.
            OSError: The working folder cannot be written to, or the store fails.
        """
        # whoever owned the working folder is dead once this one does
        former = read_record(self.owner).get("token")
        with super().owned():
            store = Store(self.address)
            lock = StoreLock(store, read_record(self.owner))
            lock.take(former)
            try:
                with _repeating(lock.renew, lock.seconds):
                    mirror = self._mirror = _Mirror(self, store, lock)
                    mirror.fetch()
                    try:
                        with _repeating(mirror.follow, _SECONDS_BETWEEN_LOOKS):
                            yield
                    except BaseException:
                        # what is finished is worth as much as before; a store that fails is not asked again
                        with suppress(OSError, ValueError):
                            mirror.send(again=False)
                        raise
                    mirror.send()
                    mirror.publish()
            finally:
                self._mirror = None
                with suppress(OSError):
                    lock.release()

    def claim(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """As for any folder; what the working folder alone holds of another build is discarded.

        Raises:
            ValueError: As for any folder.
            OSError: Likewise.
        """
        assert self._mirror is not None
        super().claim(settings, overwrite=overwrite or self._mirror.is_empty)
        self._mirror.is_claimed = True


class _Mirror:
    """Makes a store hold what a working folder does; the store's lock is held.

    Attributes:
        is_empty: Whether the store held no build.
        is_claimed: Whether the working folder is that of the build at work, so that it may be sent.
    """

    def __init__(self, folder: BuildFolder, store: Store, lock: StoreLock) -> None:
        self._folder, self._store, self._lock = folder, store, lock
        # sizes and times of the files that the store holds as they are
        self._there: dict[str, tuple[int, int]] = {}
        self._one_at_a_time, self._fails, self._next_look = threading.Lock(), False, 0.0
        self.is_empty = self.is_claimed = False

    def fetch(self) -> None:
        """Brings what a build goes on from to the working folder, where that lacks it.

        Raises:
            ValueError: The store holds files that no build has put there.
            OSError: The store fails, or the folder cannot be written to.
        """
        folder, sizes = self._folder, self._store.sizes()
        own = [name for name in sizes if not name.startswith("work/locks/")]
        self.is_empty = _SETTINGS not in sizes
        folder.refuse_foreign(own, begun=not self.is_empty)
        if self.is_empty:
            # they are of a folder that is no more
            for path in (folder.card_before, folder.finished):
                path.unlink(missing_ok=True)
        elif folder.settings.exists() and folder.settings.read_bytes() != self._store.read(_SETTINGS):
            folder.discard()
        state, local = [name for name in sizes if _is_state(name)], self._look()
        lacking = [name for name in state if name in _LISTS or local.get(name, (-1, 0))[0] != sizes[name]]
        if lacking:
            with self._show("files fetched", len(lacking)) as progress:
                self._store.fetch(folder.path, lacking, fetched=progress.update)
        local = self._look()
        self._there = {name: local[name] for name in state}
        if CARD in sizes and _CARD_BEFORE not in sizes and not any(CARD in files for files in self._marks()):
            write_record(folder.card_before, {"card": (self._store.read(CARD) or b"").decode()})

    def follow(self) -> None:
        """Sends as `send`, but spends little time on looking for what is new among many shards."""
        if time.monotonic() >= self._next_look:
            self.send()

    def send(self, *, again: bool = True) -> None:
        """Sends the shards that have been finished since the last time; not where that failed unless `again`.

        Raises:
            ValueError: Another build has taken the store's lock.
            OSError: The store fails.
        """
        with self._one_at_a_time:
            if not self.is_claimed or self._fails and not again:
                return
            self._fails = True
            self._lock.check()
            start = time.monotonic()
            local = self._look()
            self._next_look = start + _LOOKS_TO_REST * (time.monotonic() - start)
            changed = [name for name, facts in local.items() if self._there.get(name) != facts]
            if _SETTINGS in changed:
                # of a build that was overwritten: should this end here, the store holds less of that
                for name in self._there.keys() - local.keys():
                    self._store.remove([name])
                    del self._there[name]
            # the settings first: without them all else is nobody's
            for name in (lists := [name for name in changed if name in _LISTS]):
                self._put([name])
            self._put(changed[len(lists) :])
            self._there |= local
            self._fails = False

    def publish(self) -> None:
        """Puts the finished dataset in the place of the one before.

        As in any build's folder, a reader finds the old dataset or the new one whole, or a card that says that it is
        being replaced, and files of one of the two at most.

        Raises:
            ValueError: A file is in the way that no build has put there, or another build has taken the lock.
            OSError: The store fails.
        """
        store, folder, files = self._store, self._folder, read_record(self._folder.finished).get("files", {})
        sizes, (finished, placing) = store.sizes(), self._marks()
        placed, digests = {*finished, *placing}, finished or (placing if isinstance(placing, dict) else {})
        same = {
            name
            for name, digest in files.items()
            if digests.get(name) == digest and sizes.get(name) == (folder.path / name).stat().st_size
        }
        if not files or finished and placed == same == files.keys():
            return
        foreign = [
            name
            for name, digest in files.items()
            if name not in (*placed, CARD) and name in sizes and sha256(store.read(name) or b"").hexdigest() != digest
        ]
        if foreign:
            raise ValueError(
                f"{store} holds {', '.join(foreign)}, which no build has put there, or of which no record is left: "
                "move these files away."
            )
        self._lock.check()
        store.write(PLACING, format_record({"files": sorted(placed | files.keys())}, folder.placing.name))
        store.remove([FINISHED])
        store.write(CARD, BEING_REPLACED)
        for name in sorted(placed - same - {CARD}):
            self._lock.check()
            store.remove([name])
        # with their digests now that no other file of these names is left: should this end, it goes on from here
        store.write(PLACING, format_record({"files": files}, folder.placing.name))
        if rest := sorted(files.keys() - same - {CARD}):
            with self._show("files sent", len(rest)) as progress:
                self._put(rest, progress.update)
        for name in (CARD, FINISHED, PLACING):
            self._put([name])

    def _put(self, names: list[str], sent: Callable[[int], object] = lambda count: None) -> None:
        def go_on(count: int) -> None:
            self._lock.check()
            sent(count)

        self._store.send(self._folder.path, names, sent=go_on)

    def _show(self, stage: str, total: int) -> Progress:
        # the owner's part: the other processes have nothing to do with the store
        return ALONE.show(self._folder, stage, total, "files")

    def _marks(self) -> list[Any]:
        """Returns the files that the store's marks list: the finished dataset's, and those put in place, by name."""
        contents = {Path(name).name: self._store.read(name) or b"" for name in (FINISHED, PLACING)}
        return [parse_record(content, name).get("files", {}) for name, content in contents.items()]

    def _look(self) -> dict[str, tuple[int, int]]:
        """Returns sizes and times of what a build goes on from, in the order in which it is made."""
        path, facts = self._folder.path, {}
        shards = (found for pattern in _SHARDS for found in sorted(path.glob(pattern)))
        for file in (*(path / name for name in _LISTS), *shards):
            with suppress(FileNotFoundError):
                stat = file.stat()
                facts[file.relative_to(path).as_posix()] = stat.st_size, stat.st_mtime_ns
        return facts


def _is_state(name: str) -> bool:
    # not those of a build in a folder below
    return name in _LISTS or any(
        PurePosixPath(name).match(pattern) and name.count("/") == pattern.count("/") for pattern in _SHARDS
    )


@contextmanager
def _repeating(work: Callable[[], object], seconds: float) -> Iterator[None]:
    """Does something again and again beside the block; where it fails that is said once, and it is tried again."""
    ended = threading.Event()

    def repeat() -> None:
        failed = False
        while not ended.wait(seconds):
            try:
                work()
                failed = False
            except (OSError, ValueError) as error:
                if not failed:
                    logger.warning("%s", error)
                failed = True

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
