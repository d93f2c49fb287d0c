"""A sign of life of each process of a build, in a small file, for whoever watches from outside."""

import contextlib
import json
import logging
import math
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from longattn_hf.files import write_json
from longattn_hf.pipeline.terminal import clock

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN = 1.0
# between two lines where there is no terminal for a bar
_SECONDS_BETWEEN_LINES = 30.0


@dataclass(kw_only=True)
class Heartbeat:
    """What a process is at. Times are seconds since the epoch.

    Attributes:
        process: Which process, from 0.
        processes: How many there are.
        host: The machine it runs on.
        pid: Its number there.
        stage: What it works at.
        unit: What is counted.
        total: How many it has to do in this stage, without those found done.
        done: How many it has done.
        started: When the stage began.
        beat: When it last made progress.
        longest: The longest time between two beats so far, in seconds.
        ended: Whether it is through with the stage.
    """

    process: int
    processes: int
    host: str
    pid: int
    stage: str
    unit: str
    total: int
    done: int = 0
    started: float
    beat: float
    longest: float = 0.0
    ended: bool = False

    @property
    def rate(self) -> float | None:
        """How many are done in a second; None where nothing tells."""
        seconds = self.beat - self.started
        return self.done / seconds if self.done and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """What the stage will still take at the rate so far; None where nothing tells."""
        if self.ended or self.done >= self.total:
            return 0.0
        return (self.total - self.done) / self.rate if self.rate else None

    def __str__(self) -> str:
        rate = f", {self.rate:,.2f}/s" if self.rate else ""
        return f"{self.stage}: {self.done:,} of {self.total:,} {self.unit}{rate}, {self.prospect}"

    @property
    def prospect(self) -> str:
        """When the stage will have ended, as the clock shows it."""
        left = self.seconds_left
        return "done at an unknown time" if left is None else f"done at {clock(left, now=self.beat)}"


class Progress:
    """One stage's progress of one process: a heartbeat for `watch`, and of the first process what people see of it.

    That is a bar on a terminal, and a line in the log now and then where there is none.

    Args:
        folder: Receives a file for each process; no heartbeat if None.
        process: Which process, from 0.
        processes: How many there are.
        stage: What it works at.
        total: How much it has to do.
        unit: What is counted.
    """

    def __init__(
        self, folder: Path | None, *, process: int, processes: int, stage: str, total: int, unit: str
    ) -> None:
        now = time.time()
        self._path, self._written = folder and folder / f"{process}.json", 0.0
        self._heartbeat = Heartbeat(
            process=process,
            processes=processes,
            host=socket.gethostname(),
            pid=os.getpid(),
            stage=stage,
            unit=unit,
            total=total,
            started=now,
            beat=now,
        )
        # None where there is no terminal, which the bar finds out by itself
        is_hidden = True if process > 0 or not logger.isEnabledFor(logging.WARNING) else None
        self._bar = tqdm(desc=stage, total=total, unit=f" {unit}", disable=is_hidden)
        self._next_line = math.inf if process > 0 or not self._bar.disable else now + _SECONDS_BETWEEN_LINES
        self._write()

    def update(self, count: int = 1) -> None:
        """Notes that `count` more are done; 0 says only that work goes on."""
        now = time.time()
        heartbeat = self._heartbeat
        heartbeat.longest = max(heartbeat.longest, now - heartbeat.beat)
        heartbeat.done, heartbeat.beat = heartbeat.done + count, now
        self._bar.set_postfix_str(heartbeat.prospect, refresh=False)
        self._bar.update(count)
        if now >= self._next_line:
            logger.info("%s", str(heartbeat))
            self._next_line = now + _SECONDS_BETWEEN_LINES
        if now - self._written >= _SECONDS_BETWEEN:
            self._write()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # what is said of an error stands below the bar
        self._bar.close()
        if kind is None:
            self._heartbeat.ended, self._heartbeat.beat = True, time.time()
            self._write()

    def _write(self) -> None:
        self._written = time.time()
        if self._path is None:
            return
        # the stage's own files say what is wrong with the disk; a sign of life must not end the work
        with contextlib.suppress(OSError):
            write_json(self._path, asdict(self._heartbeat))


def read_heartbeats(folder: Path) -> list[Heartbeat]:
    """Reads the heartbeats of the processes of the latest run, in their order.

    Args:
        folder: Where `Progress` writes.
    """
    heartbeats = []
    for path in folder.glob("*.json"):
        # a file may be replaced at this moment, or be damaged
        with contextlib.suppress(OSError, ValueError, TypeError):
            heartbeats.append(Heartbeat(**json.loads(path.read_text())))
    if not heartbeats:
        return []
    latest = max(heartbeats, key=lambda one: one.beat)
    # an earlier run may have had more processes
    return sorted((one for one in heartbeats if one.process < latest.processes), key=lambda one: one.process)
