"""`python -m longattn_hf.watch OUT`: a running build seen from a second terminal.

Reads only what the build leaves on disk: each process's heartbeat and the shards of scores. A process that is silent
for much longer than it ever was is named.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longattn_hf.columns import DEPENDENCY_STRENGTH
from longattn_hf.pages.page import visible
from longattn_hf.pipeline.heartbeat import Heartbeat, read_heartbeats
from longattn_hf.pipeline.refusal import Refusal
from longattn_hf.pipeline.settings import read_command_line, settings
from longattn_hf.pipeline.storage import open_folder
from longattn_hf.selection.summary import bin_edges

_BARS = " ▁▂▃▄▅▆▇█"
# what fits beside a name and its numbers
_MOST_BINS = 40
#: A process is never called stalled before this many seconds of silence.
PATIENCE = 60.0


@settings
class WatchSettings:
    """Shows a running build's progress again and again, until it is through or the watcher is interrupted.

    Attributes:
        folder: The build's output folder; one in a store is watched on the machine where the build runs.
        every: Seconds between two looks.
        once: Look once.
    """

    folder: str
    every: float = 5.0
    once: bool = False


def main(arguments: list[str] | None = None) -> None:
    """Runs the watch from the command line."""
    try:
        given = read_command_line(WatchSettings, arguments, positional=("folder",))
        folder = open_folder(given.folder)
    except ValueError as error:
        raise Refusal("watch", error) from error
    if not folder.work.is_dir():
        raise Refusal("watch", f"{given.folder} holds no build on this machine; give the output folder of one.")
    scores: dict[Path, np.ndarray] = {}
    try:
        while True:
            beats = read_heartbeats(folder.heartbeats)
            read_new_scores(folder.scores, scores)
            if sys.stdout.isatty():
                print("\x1b[H\x1b[2J", end="")  # noqa: T201
            print(describe(beats, scores, now=time.time(), host=socket.gethostname()), flush=True)  # noqa: T201
            if given.once or folder.finished.exists():
                return
            time.sleep(given.every)
    except KeyboardInterrupt:
        return


def describe(beats: Sequence[Heartbeat], scores: Mapping[Path, np.ndarray], *, now: float, host: str) -> str:
    """Lays out the progress of each process and stage, and the dependency strength so far.

    Args:
        beats: The processes' heartbeats.
        scores: The dependency strengths of each shard; its folder is named after the category.
        now: Seconds since the epoch.
        host: This machine, whose processes can be looked up.
    """
    if not beats:
        return "No process has given a sign of life yet."
    rows = [("process", "stage", "done", "rate", "time left", "last sign", "")]
    for beat in beats:
        rows.append(
            (
                str(beat.process),
                beat.stage,
                f"{beat.done:,} of {beat.total:,} {beat.unit}",
                _rate(beat),
                _span(time_left(beat)),
                f"{_span(now - beat.beat)} ago",
                trouble(beat, now=now, host=host),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for stage in dict.fromkeys(beat.stage for beat in beats):
        of_stage = [beat for beat in beats if beat.stage == stage]
        left = [time_left(beat) for beat in of_stage]
        # the stage ends with its slowest process
        rest = None if None in left else max(seconds for seconds in left if seconds is not None)
        done, total = (sum(getattr(beat, name) for beat in of_stage) for name in ("done", "total"))
        lines.append(
            f"{stage}: {done:,} of {total:,} {of_stage[0].unit} by {len(of_stage)} processes, {_span(rest)} left"
        )
    return "\n".join([*lines, "", *_histograms(scores)])


def time_left(beat: Heartbeat) -> float | None:
    """Returns the seconds that a process's stage will still take at its rate so far; None where nothing tells."""
    if beat.ended or beat.done >= beat.total:
        return 0.0
    return (beat.total - beat.done) * (beat.beat - beat.started) / beat.done if beat.done else None


def trouble(beat: Heartbeat, *, now: float, host: str) -> str:
    """Says what is wrong with a process, if anything is: it has died, or is silent for five times its longest yet."""
    if beat.ended:
        return "through"
    if beat.host == host and not _is_alive(beat.pid):
        return f"DIED: process {beat.pid} on {beat.host} is gone; the same command goes on from its shards"
    if now - beat.beat > max(PATIENCE, 5 * beat.longest):
        return f"STALLED: process {beat.pid} on {beat.host} has made no progress since"
    return ""


def read_new_scores(folder: Path, known: dict[Path, np.ndarray]) -> None:
    """Adds the dependency strengths of the shards that `known` does not have yet."""
    for path in sorted(folder.glob("*/*.parquet")):
        if path not in known:
            try:
                values = pq.read_table(path, columns=[DEPENDENCY_STRENGTH])[DEPENDENCY_STRENGTH].drop_null()
            except (OSError, pa.ArrowInvalid):
                # removed meanwhile, or damaged: the build makes it again
                continue
            known[path] = values.to_numpy()


def _histograms(scores: Mapping[Path, np.ndarray]) -> list[str]:
    by_category: dict[str, list[np.ndarray]] = {}
    for path, values in scores.items():
        by_category.setdefault(path.parent.name, []).append(values)
    whole = {visible(name): np.concatenate(parts) for name, parts in sorted(by_category.items())}
    whole = {name: values for name, values in whole.items() if len(values)}
    if not whole:
        return ["No scores yet."]
    edges = bin_edges(*whole.values(), most=_MOST_BINS)
    width = max(map(len, whole))
    lines = [f"dependency strength so far, from {edges[0]:.3f} to {edges[-1]:.3f}"]
    for name, values in whole.items():
        counts, _ = np.histogram(values, edges)
        bars = "".join(_BARS[int(np.ceil((len(_BARS) - 1) * count / counts.max()))] for count in counts)
        lines.append(f"{name.ljust(width)}  {bars}  mean {values.mean():.3f}, {len(values):,} windows")
    return lines


def _rate(beat: Heartbeat) -> str:
    seconds = beat.beat - beat.started
    return f"{beat.done / seconds:,.2f}/s" if beat.done and seconds > 0 else "-"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    seconds = max(int(seconds), 0)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main()
