"""Ray as the launcher of a build's shards: the driver owns the folder, and actors take its work, one unit at a time.

A shard is the same file with the same fingerprint whoever made it, so a build may begin under Ray and end without it,
or the other way round. Selection, writing and card are the driver's alone.
"""

import logging
import math
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from longattn_hf.files import read_record
from longattn_hf.pipeline.processes import Process, Stage
from longattn_hf.report.describe import software_versions

try:
    import ray
    from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
except ImportError as error:
    raise ImportError("The engine ray needs Ray: pip install 'longattn_hf[ray]'.") from error

logger = logging.getLogger(__name__)

# a unit that ends so many workers in a row is not given to another
_MOST_LOSSES = 5
_SECONDS_BETWEEN_SIGNS = 5.0
_SECONDS_TO_START = 60.0
# a network's file system may show a new file a moment later
_SECONDS_TO_SEE = 5.0


@dataclass(frozen=True, kw_only=True)
class RayCluster(Process):
    """The nodes of a Ray cluster as the workers of a build: `build(config, engine=RayCluster(address="auto"))`.

    All nodes must see the build's folder, and local documents and models, under the same names: each worker checks
    that it sees the driver's claim in the folder, and that it would make the same shards.

    A worker that dies is started again, elsewhere where its node has died, and its unit goes to whoever is free.
    Workers end with the driver; one that is cut off from it may still write the shard that it was at, whole and with
    the bytes that any other would write.

    Attributes:
        address: The cluster's, as `ray.init` takes it (`auto` for the one of this machine); if None that of the
            environment's RAY_ADDRESS, else a cluster of this machine alone, which ends with this process.
        workers: How many at once; as many as the cluster has GPUs where a model scores and there are any, and as it
            has CPUs otherwise, if None. A worker is given one of these.
    """

    address: str | None = None
    workers: int | None = None
    # by what each is given; they end when nobody has them any more
    _actors: dict[str, list[Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1.")

    def run(self, stage: Stage) -> int:
        """Does a stage on the cluster; returns how much that was.

        Raises:
            ValueError: A unit cannot be done, a node would make other shards than the driver or does not see the
                folder, or a unit has ended several workers.
            OSError: As `write_shard`, or there is no such cluster.
        """
        self._connect()
        there = ray.cluster_resources()
        kind = "GPU" if stage.runs_models and there.get("GPU") else "CPU"
        workers = self.workers or max(1, int(there.get(kind, 1)))
        units = stage.units(workers, slice(None))
        total = sum(map(stage.size, units))
        with self.show(stage.folder, stage.name, total, stage.counted) as progress:
            if units:
                promise = _Promise(
                    read_record(stage.folder.owner), software_versions(), stage.made_with(), os.getcwd()
                )
                arguments = ray.put(stage), promise
                try:
                    _share_out(
                        units,
                        self._staff(kind, min(workers, len(units))),
                        # an actor that is being started again answers when it is there
                        lambda actor: actor.begin.options(max_task_retries=-1).remote(*arguments),
                        lambda unit: progress.update(stage.size(unit) if unit else 0),
                    )
                except BaseException:
                    # what they are at is in vain
                    self._dismiss()
                    raise
        return total

    def _staff(self, kind: str, count: int) -> list[Any]:
        """Returns as many actors: those of the stage before, and new ones."""
        if self._actors.keys() - {kind}:
            self._dismiss()
        actors = self._actors.setdefault(kind, [])
        worker = ray.remote(_Worker).options(num_cpus=int(kind == "CPU"), num_gpus=int(kind == "GPU"), max_restarts=-1)
        actors += [worker.remote() for _ in range(count - len(actors))]
        return actors[:count]

    def _dismiss(self) -> None:
        for actor in (actor for actors in self._actors.values() for actor in actors):
            ray.kill(actor)
        self._actors.clear()

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        settings: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, logging_level=logging.WARNING, **settings)


@dataclass(frozen=True)
class _Promise:
    """What the driver is, for workers to compare themselves with.

    Attributes:
        owner: Its claim in the folder.
        software: Its versions.
        made_with: What its shards would be made with.
        directory: Where its relative paths begin.
    """

    owner: Mapping[str, Any]
    software: Mapping[str, str]
    made_with: Mapping[str, str]
    directory: str


class _Worker:
    """An actor: has the stage, with its models once they are loaded, and does units of it."""

    def begin(self, stage: Stage, promise: _Promise) -> None:
        """Prepares for a stage; raises ValueError where this worker cannot make the driver's shards."""
        self._stage, self._promise = stage, promise
        # where it is not there, only absolute paths lead somewhere
        with suppress(OSError):
            os.chdir(promise.directory)
        until = time.monotonic() + _SECONDS_TO_SEE
        while not self._sees_the_driver() and time.monotonic() < until:
            time.sleep(0.1)
        self.tick()
        here = _public(software_versions())
        self._compare({name: (here.get(name), there) for name, there in _public(self._promise.software).items()})
        made_with = self._stage.made_with()
        self._compare({name: (made_with.get(name), there) for name, there in self._promise.made_with.items()})

    def _compare(self, pairs: Mapping[str, tuple[str | None, str]]) -> None:
        differing = [f"{name} ({here} there, {ours} here)" for name, (here, ours) in pairs.items() if here != ours]
        if differing:
            raise ValueError(
                f"The node {socket.gethostname()} would make other shards than the driver, by {', '.join(differing)}: "
                "give all nodes, and the driver, the same packages, models and kind of device."
            )

    def _sees_the_driver(self) -> bool:
        return read_record(self._stage.folder.owner) == self._promise.owner

    def tick(self, _: int = 0) -> None:
        """Checks that the driver still has the folder: an actor that outlives it must not write for another build."""
        if not self._sees_the_driver():
            raise ValueError(
                f"The node {socket.gethostname()} does not see the build's folder {self._stage.folder.path} as the "
                f"driver on {self._promise.owner.get('host')} does: all nodes need one shared folder under one name."
            )

    def do(self, unit: Any) -> None:
        """Does a unit of the stage."""
        self._stage.do(unit, self.tick)


def _public(versions: Mapping[str, str]) -> dict[str, str]:
    """Versions without what says for which device a package was built."""
    return {name: version.partition("+")[0] for name, version in versions.items()}


def _share_out(
    units: Iterable[Any],
    actors: Iterable[Any],
    begin: Callable[[Any], Any],
    note: Callable[[Any], None],
) -> None:
    """Hands each unit to whichever actor is free, and those of dead actors to another.

    Args:
        units: What is to be done.
        actors: Who does it.
        begin: Prepares an actor, for the first time or back from the dead; what it returns is there when it is ready.
        note: Is told of each unit that is done, and of None that all goes on.
    """
    left, losses = deque(units), Counter[str]()
    idle: list[Any] = []
    # an actor has a unit, or None while it gets ready
    awaited: dict[Any, tuple[Any, Any]] = {begin(actor): (actor, None) for actor in actors}
    # says once that nothing begins
    patience = time.monotonic() + _SECONDS_TO_START
    while left or any(unit is not None for _, unit in awaited.values()):
        while left and idle:
            actor, unit = idle.pop(), left.popleft()
            awaited[actor.do.remote(unit)] = actor, unit
        answers, _ = ray.wait(list(awaited), timeout=_SECONDS_BETWEEN_SIGNS)
        note(None)
        if answers:
            patience = math.inf
        elif time.monotonic() > patience:
            logger.warning("No worker is ready yet; the cluster has %s left.", ray.available_resources())
            patience = math.inf
        for answer in answers:
            actor, unit = awaited.pop(answer)
            try:
                ray.get(answer)
            except RayTaskError as error:
                # what the worker itself would have said
                raise error.cause from None
            except RayError as error:
                if unit is None and not isinstance(error, ActorUnavailableError):
                    raise ValueError(f"A worker cannot be started: {_last_line(error)}") from error
                if unit is not None:
                    left.append(unit)
                    losses[repr(unit)] += 1
                    if losses[repr(unit)] == _MOST_LOSSES:
                        raise ValueError(
                            f"{unit} has ended {_MOST_LOSSES} workers ({_last_line(error)}), perhaps for lack of "
                            "memory: a smaller batch_tokens or documents_per_shard, or fewer workers, need less."
                        ) from error
                awaited[begin(actor)] = actor, None
                continue
            if unit is not None:
                note(unit)
            idle.append(actor)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
