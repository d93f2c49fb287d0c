"""The processes of one build: how they find each other, share the work, wait for each other, and end together."""

import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.heartbeat import Progress

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")

# what launchers tell their processes, as accelerate reads it
_LAUNCHED = {"LOCAL_RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"}
# of <sys/prctl.h>: the signal that a process gets when its parent ends
_PR_SET_PDEATHSIG = 1


class Stage(Protocol):
    """Work on a build's folder in units that can be done in any order, anywhere, twice: each writes whole shards.

    A stage is a picklable value, and so are its units.
    """

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def counted(self) -> str:
        """What the sizes of units count."""

    @property
    def folder(self) -> BuildFolder:
        """Where it reads and writes."""

    @property
    def runs_models(self) -> bool:
        """Whether a GPU speeds it up."""

    def units(self, workers: int, share: slice) -> Sequence[Any]:
        """Lists what is to be done of a share of all units, where as many workers share them."""

    def size(self, unit: Any) -> int:
        """Says how much a unit is."""

    def do(self, unit: Any, tick: Callable[[int], object]) -> None:
        """Does a unit; calls `tick` with how much was done since the last call, and before each shard is written."""

    def made_with(self) -> Mapping[str, str]:
        """Names what shards are made with here: equal in two places that make equal shards."""


@dataclass(frozen=True)
class Process:
    """Which of how many processes this one is, how to wait until all have come as far, and how they share work.

    `tell` waits likewise, and returns in all processes what the first one gave it.

    An engine that launches its own workers derives from it, is the only process of its build, and has another `run`.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    tell: Callable[[Any], Any] = lambda value: value

    def run(self, stage: Stage) -> int:
        """Does this process's share of a stage; returns how much that was.

        Raises:
            ValueError: A unit cannot be done.
            OSError: As `write_shard`.
        """
        units = stage.units(self.count, slice(self.index, None, self.count))
        total = sum(map(stage.size, units))
        with self.show(stage.folder, stage.name, total, stage.counted) as progress:
            for unit in units:
                stage.do(unit, progress.update)
        return total

    def say(self, line: str, *values: object) -> None:
        """Logs what goes on, if this is the first process: all would say the same."""
        if self.index == 0:
            logger.info(line, *values)

    def show(self, folder: BuildFolder, stage: str, total: int, unit: str) -> Progress:
        """Begins to show how far this process is in a stage, or in one of its parts."""
        return Progress(
            folder.heartbeats, process=self.index, processes=self.count, stage=stage, total=total, unit=unit
        )

    def each(self, folder: BuildFolder, stage: str, items: Sequence[_Item], unit: str) -> Iterator[_Item]:
        """Hands out one item after another, and shows how many of them are done."""
        with self.show(folder, stage, len(items), unit) as progress:
            for item in items:
                yield item
                progress.update()


#: The only process of a build.
ALONE = Process()


def join_processes() -> Process:
    """Joins the processes that `accelerate launch` or `torchrun` started; one alone is the first of one."""
    if not _LAUNCHED & os.environ.keys() and "ACCELERATE_MIXED_PRECISION" not in os.environ:
        # nobody to join, and no torch to load for a build whose scores need none
        return ALONE
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    if sys.platform == "linux" and {"LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():
        # a launcher that is killed must not leave its processes at work beside the next build
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _find_launcher()
    # processes meet only between stages, and an uneven share of work may take long
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))
    if state.device.type == "cpu" and torch.get_num_threads() == 1:
        # `accelerate launch` gives a process one thread unless told otherwise; scores do not depend on the number
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))

    if state.num_processes == 1 and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        logger.warning(
            "`accelerate launch` was asked for several processes, and has started this one alone, as it does on a "
            "CPU. There, `torchrun --nproc_per_node N` in its place starts N."
        )

    def meet(how: Callable[..., Any], *given: Any) -> Any:
        try:
            return how(*given)
        except RuntimeError as error:
            raise ConnectionError(
                f"Process {state.process_index} ends since another process of this build has ended. Where that one "
                "says nothing, it was killed, perhaps for lack of memory; the same command goes on."
            ) from error

    return Process(
        state.process_index,
        state.num_processes,
        wait=partial(meet, state.wait_for_everyone),
        tell=lambda value: meet(broadcast_object_list, [value])[0],
    )


def _find_launcher() -> None:
    """Checks that `torchrun` has not ended before `join_processes` was reached: its processes would wait for days."""
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    try:
        socket.create_connection(address, timeout=60).close()
    except OSError as error:
        raise ConnectionError("The launcher of this process has ended; the same command starts anew.") from error
