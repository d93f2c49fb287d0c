"""What each stage of a build takes: wall time, CPU time, and peak memory, begun anew with each stage."""

import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread

import psutil

from longattn_hf.files import write_json
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.heartbeat import Progress
from longattn_hf.pipeline.processes import Process

#: The stages that are told apart, in the words that a build shows them in.
STAGES = {
    "start-up": (),
    "tokenising": ("windows",),
    "scoring": ("scores", "scores again"),
    "selecting": ("scores read", "files compared"),
    "writing": ("scores written", "windows written", "files placed"),
    "report": ("examples", "report"),
}
_HIGH_WATER, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class StageMeter:
    """Writes down, each second, what the stage that a process is in has taken so far."""

    def __init__(self, path: Path) -> None:
        self._path, self._stages, self._stage = path, dict[str, dict[str, float]](), "start-up"
        self._since = psutil.Process().create_time(), 0.0
        self._lock, self._ended, self._thread = Lock(), Event(), Thread(target=self._repeat, daemon=True)

    def begin(self, stage: str) -> None:
        """Notes that another stage begins."""
        self._note()
        self._stage = stage
        if _RESET.exists():
            # the peak begins anew
            _RESET.write_text("5")

    def __enter__(self) -> "StageMeter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._note()

    def _repeat(self) -> None:
        while not self._ended.wait(1.0):
            self._note()

    def _note(self) -> None:
        with self._lock:
            now = time.time(), time.process_time()
            facts = self._stages.setdefault(self._stage, {"wall_s": 0.0, "cpu_s": 0.0, "peak_mb": 0.0})
            for name, until, since in zip(("wall_s", "cpu_s"), now, self._since, strict=True):
                facts[name] = round(facts[name] + until - since, 3)
            facts["peak_mb"], self._since = max(facts["peak_mb"], _peak_mb()), now
            write_json(self._path, self._stages)


def _peak_mb() -> float:
    """The most memory that this process has had at once since it was last reset, in MB."""
    if _HIGH_WATER.exists():
        lines = (line.split() for line in _HIGH_WATER.read_text().splitlines())
        return next(round(int(line[1]) / 1024, 1) for line in lines if line[0] == "VmHWM:")
    return round(psutil.Process().memory_info().rss / 2**20, 1)


@dataclass(frozen=True, kw_only=True)
class Metered(Process):
    """The only process of a build, whose stages are measured."""

    meter: StageMeter

    def show(self, folder: BuildFolder, stage: str, total: int, unit: str) -> Progress:
        """Begins a stage."""
        self.meter.begin(next(name for name, shown in STAGES.items() if stage in shown))
        return super().show(folder, stage, total, unit)
