"""A folder of objects in any store that fsspec reaches, and the lock that one build at a time holds there."""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fsspec import AbstractFileSystem, get_filesystem_class
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs

from longattn_hf.files import format_record, parse_record
from longattn_hf.pipeline.folder import is_being_built

logger = logging.getLogger(__name__)

# sent or fetched in one call, by as many connections as the client likes
_OBJECTS_AT_ONCE = 64
# packages by protocol, where fsspec's own words do not name an extra of ours
_EXTRAS = {"s3": "'longattn_hf[s3]'", "s3a": "'longattn_hf[s3]'"}
_LOCKS = "work/locks"
_SECONDS_BETWEEN_BEATS = 10.0
# an owner that is silent for so many beats is dead
_BEATS_TO_MISS = 6
# how long two who took the same lock may both believe it, where a store has no conditional put
_SECONDS_TO_SETTLE = 1.0


@contextmanager
def naming(address: object) -> Iterator[None]:
    """Makes whatever a store's client raises an OSError of one line that names the address, and no ValueError."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        # each client has errors of its own, which have no other base
        reason = f"{error}".rstrip(".") or type(error).__name__
        raise OSError(
            f"{address} cannot be reached, or not as it should: {reason}. Check the address, the credentials and the "
            "network; the same command goes on from what is finished."
        ) from error


class Store:
    """A folder of objects, each of which is there whole or not at all; their names are paths below it.

    Its methods raise OSError where the store fails, after as many tries as its client makes.

    Args:
        address: As fsspec takes it: `s3://bucket/folder`, `gs://...`, `hf://buckets/...`, `memory://...`.

    Raises:
        ValueError: Its client is not installed, or it is not a kind of place that holds objects.
    """

    def __init__(self, address: str) -> None:
        # a password may stand in it
        self._shown = re.sub(r"//[^/@:]*:[^/@]*@", "//", address)
        protocol, _, rest = address.partition("://")
        if not rest.strip("/") or "::" in address or protocol == "hf" and not rest.startswith("buckets/"):
            raise ValueError(
                f"{self} holds no folder of objects: give s3://bucket/folder, gs://bucket/folder, "
                "hf://buckets/owner/name/folder or the like, or a folder; --push_to_hub publishes a dataset."
            )
        try:
            get_filesystem_class(protocol)
        except (ImportError, ValueError) as error:
            package = f" pip install {_EXTRAS[protocol]}." if protocol in _EXTRAS else ""
            raise ValueError(f"{self} cannot be reached: {error}.{package}") from error
        self._address = address

    def __str__(self) -> str:
        return self._shown

    @cached_property
    def opened(self) -> tuple[AbstractFileSystem, str]:
        """The client, and the folder's path as it names it."""
        # not sooner: clients look for credentials then
        files, root = url_to_fs(self._address)
        return files, root.rstrip("/")

    @property
    def _files(self) -> AbstractFileSystem:
        return self.opened[0]

    @property
    def creates(self) -> bool:
        """Whether its client can leave it to the store to refuse an object that is there already."""
        # the way of all clients that have none looks first, and writes then
        return isinstance(self._files, AsyncFileSystem) or (
            type(self._files).pipe_file is not AbstractFileSystem.pipe_file
        )

    def sizes(self, below: str = "") -> dict[str, int]:
        """Returns the sizes of all objects by their names, or of those below a folder."""
        with naming(self), suppress(FileNotFoundError):
            self._files.invalidate_cache()
            details = self._files.find(self._path(below).rstrip("/"), detail=True)
            names = {path.removeprefix(self._path("")): facts for path, facts in details.items()}
            # consoles make empty objects that stand for folders
            return {name: facts["size"] for name, facts in names.items() if name and not name.endswith("/")}
        return {}

    def read(self, name: str) -> bytes | None:
        """Returns an object's bytes; None where there is none."""
        with naming(self), suppress(FileNotFoundError):
            return self._files.cat_file(self._path(name))
        return None

    def write(self, name: str, content: str) -> None:
        """Puts a text in an object's place."""
        with naming(self):
            self._files.pipe_file(self._path(name), content.encode())

    def create(self, name: str, content: str) -> bool:
        """Makes an object, unless one of that name is there; says whether it did."""
        with naming(self), suppress(FileExistsError):
            self._files.pipe_file(self._path(name), content.encode(), mode="create")
            return True
        return False

    def send(self, folder: Path, names: Sequence[str], *, sent: Callable[[int], object] = lambda count: None) -> None:
        """Puts files of a local folder in the place of objects of the same names; says now and then how many more."""
        for start in range(0, len(names), _OBJECTS_AT_ONCE):
            some = names[start : start + _OBJECTS_AT_ONCE]
            with naming(self):
                self._files.put([str(folder / name) for name in some], [self._path(name) for name in some])
            sent(len(some))

    def fetch(
        self, folder: Path, names: Sequence[str], *, fetched: Callable[[int], object] = lambda count: None
    ) -> None:
        """Puts objects in the place of files of the same names in a local folder; says likewise how many more."""
        for left in folder.glob(".fetched-*"):
            shutil.rmtree(left)
        with TemporaryDirectory(dir=folder, prefix=".fetched-") as temporary:
            for start in range(0, len(names), _OBJECTS_AT_ONCE):
                some = names[start : start + _OBJECTS_AT_ONCE]
                with naming(self):
                    self._files.get([self._path(name) for name in some], [f"{temporary}/{name}" for name in some])
                for name in some:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(f"{temporary}/{name}", folder / name)
                fetched(len(some))

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; those that are not there are none of its concern."""
        for name in names:
            with naming(self), suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.opened[1]}/{name}"


class StoreLock:
    """Keeps a store to one build at a time.

    A lock is an object with a number. Who owns the highest one owns the store, and writes a sign of life into it
    again and again. A lock is taken by creating the object of the next number, which a store lets only one do; so is
    that of an owner who gives no sign of life, and who notices it by the higher number before the next change.

    Args:
        store: The store.
        owner: Who takes it: host, pid, start and a token.
    """

    def __init__(self, store: Store, owner: Mapping[str, Any]) -> None:
        self._store, self._number, self._renewed, self._lost = store, 0, 0.0, False
        self._record = {**owner, "beat": 0, "every": _SECONDS_BETWEEN_BEATS}

    @property
    def seconds(self) -> float:
        """How often to renew it."""
        return self._record["every"]

    def take(self, former: str | None) -> None:
        """Takes the lock, at once where none is held, and otherwise when its owner is known to be dead.

        Args:
            former: The token of an owner that is known to be.

        Raises:
            ValueError: Another build is at work.
            OSError: The store fails.
        """
        dead = self._locks()
        if dead and (last := dead[max(dead)]).get("token") != former:
            self._watch(max(dead), last)
        self._number = max(dead, default=0) + 1
        took = self._store.create(self._name, self._content)
        if took and (not self._store.creates or self._store.create(self._name, self._content)):
            logger.warning(
                "%s has no conditional put: two builds that start in it within a second of each other may not notice.",
                self._store,
            )
            time.sleep(_SECONDS_TO_SETTLE)
        locks = self._locks()
        first = locks.pop(self._number, {})
        # whoever began to count anew meanwhile, or took the same number
        others = [lock for number, lock in locks.items() if lock.get("token") != dead.get(number, {}).get("token")]
        if first.get("token") != self._record["token"] or others:
            if first.get("token") == self._record["token"]:
                self._store.remove([self._name])
            raise is_being_built(self._store, [first, *others][-1])
        self._renewed = time.monotonic()
        self._store.remove(self._name_of(number) for number in locks)

    def renew(self) -> None:
        """Gives a sign of life.

        Raises:
            ValueError: Another build has taken the lock meanwhile.
            OSError: The store fails.
        """
        locks = self._locks()
        owner = locks.get(max(locks, default=0), {})
        if owner.get("token") != self._record["token"]:
            self._lost = True
            raise is_being_built(self._store, owner)
        self._record["beat"] += 1
        self._store.write(self._name, self._content)
        self._renewed = time.monotonic()

    def check(self) -> None:
        """Makes sure that the lock is held before something is changed; raises as `renew`."""
        if self._lost or time.monotonic() - self._renewed > self.seconds * _BEATS_TO_MISS / 2:
            self.renew()

    def release(self) -> None:
        """Lets go of it."""
        self._store.remove([self._name])

    @property
    def _content(self) -> str:
        return format_record(self._record, self._name)

    @property
    def _name(self) -> str:
        return self._name_of(self._number)

    def _name_of(self, number: int) -> str:
        return f"{_LOCKS}/{number:06d}.json"

    def _locks(self) -> dict[int, dict[str, Any]]:
        names = [name for name in self._store.sizes(_LOCKS) if re.fullmatch(rf"{_LOCKS}/\d{{6}}\.json", name)]
        contents = {name: self._store.read(name) for name in names}
        return {int(Path(n).stem): parse_record(c, n) for n, c in contents.items() if c is not None}

    def _watch(self, number: int, lock: Mapping[str, Any]) -> None:
        """Returns when the owner of a lock has given no sign of life for long enough; raises where there is one."""
        every = lock.get("every", _SECONDS_BETWEEN_BEATS)
        seconds = every * _BEATS_TO_MISS
        logger.warning(
            "%s is locked: looking for a sign of life of its owner, for up to %.0f seconds.", self._store, seconds
        )
        # by this clock alone: those of two machines differ
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(every / 4)
            now = self._locks()
            if number not in now:
                return
            if max(now) > number or now[number] != lock:
                raise is_being_built(self._store, now[max(now)])
