"""A sign of life of each process of a build, in a small file, for whoever watches from outside."""

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from longattn_hf.files import write_json

_SECONDS_BETWEEN = 1.0


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


class Progress:
    """One stage's progress of one process: a bar on the first process's terminal, and a heartbeat for `watch`.

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
        self._bar = tqdm(desc=stage, total=total, unit=f" {unit}", disable=process > 0)
        self._write()

    def update(self, count: int = 1) -> None:
        """Notes that `count` more are done; 0 says only that work goes on."""
        now = time.time()
        heartbeat = self._heartbeat
        heartbeat.longest = max(heartbeat.longest, now - heartbeat.beat)
        heartbeat.done, heartbeat.beat = heartbeat.done + count, now
        self._bar.update(count)
        if now - self._written >= _SECONDS_BETWEEN:
            self._write()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        # what is said of an error stands below the bar
        self._bar.close()

    def close(self) -> None:
        """Notes the end of the stage."""
        self._heartbeat.ended, self._heartbeat.beat = True, time.time()
        self._bar.close()
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
