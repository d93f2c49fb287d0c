"""`longattn watch OUT`: a running build seen from a second terminal.

Reads only what the build leaves on disk: each process's heartbeat and the shards of all its scorers. A process that is
silent for much longer than it ever was is named.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longattn_hf.baselines.by_name import LONGATTN, ranking_column
from longattn_hf.columns import DEPENDENCY_STRENGTH
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.heartbeat import Heartbeat, read_heartbeats
from longattn_hf.pipeline.refusal import Refusal
from longattn_hf.pipeline.settings import read_command_line, settings
from longattn_hf.pipeline.storage import open_folder
from longattn_hf.pipeline.terminal import clock, fold, lay_out, say
from longattn_hf.selection.summary import bin_edges

if TYPE_CHECKING:
    from longattn_hf.pipeline.so_far import ScoresSoFar, Shard

_BARS = " ▁▂▃▄▅▆▇█"
# what fits beside a name and its numbers
_MOST_BINS = 24
_LONGEST_WAIT = 86_400.0
#: A process is never called stalled before this many seconds of silence.
PATIENCE = 60.0


@settings
class WatchSettings:
    """Shows a running build's progress again and again, until it is through or the watcher is interrupted.

    Waits where no build has begun. Where one is finished, says so and ends; with --follow it stays for the next, such
    as another selection, which needs some seconds to begin.

        longattn watch out/longabc-demo-8k
        longattn watch out/longabc-demo-8k --follow
        longattn watch out/longabc-demo-8k --once

    Attributes:
        folder: The build's output folder; one in a store is watched on the machine where the build runs.
        every: Seconds between two looks.
        once: Look once.
        follow: Stay when the build is finished, for the next in its folder.
    """

    folder: str
    every: float = 5.0
    once: bool = False
    follow: bool = False


def main(arguments: list[str] | None = None) -> None:
    """Runs the watch from the command line."""
    try:
        given = read_command_line(WatchSettings, arguments, positional=("folder",))
        # what no clock waits for, and what would never wait
        if not 0 < given.every <= _LONGEST_WAIT:
            raise ValueError(f"every={given.every} must be above 0 and at most {_LONGEST_WAIT:,.0f} seconds, a day.")
        folder = open_folder(given.folder)
    except ValueError as error:
        raise Refusal("watch", error) from error
    if given.once and not folder.work.is_dir():
        raise Refusal("watch", f"{given.folder} holds no build on this machine; give the output folder of one.")
    try:
        if not folder.work.is_dir():
            say(
                fold(f"{given.folder} holds no build on this machine yet: waiting for one to begin. Ctrl-C ends this.")
            )
        while not folder.work.is_dir():
            time.sleep(given.every)
        # loads pandas, which help does without
        from longattn_hf.pipeline.so_far import ScoresSoFar

        so_far, scores = ScoresSoFar(folder), dict["Shard", np.ndarray]()
        while True:
            over = is_over(folder)
            look = describe(read_heartbeats(folder.heartbeats), now=time.time(), host=socket.gethostname(), over=over)
            read_new_scores(so_far, scores)
            clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
            say(clear + "\n".join([look, "", *progress(so_far), *histograms(so_far, scores)]))
            if given.once or over and not given.follow:
                return
            if over:
                say(fold("Waiting for the next build in this folder. Ctrl-C ends this."))
            time.sleep(given.every)
            while over and is_over(folder):
                time.sleep(given.every)
            so_far.look()
    except KeyboardInterrupt:
        return


def is_over(folder: BuildFolder) -> bool:
    """Says whether a build is finished and none is at work on another selection."""
    return folder.finished.exists() and not folder.owner.exists()


def describe(beats: Sequence[Heartbeat], *, now: float, host: str, over: bool = False) -> str:
    """Lays out the progress of each process and stage.

    Args:
        beats: The processes' heartbeats.
        now: Seconds since the epoch.
        host: This machine, whose processes can be looked up.
        over: Whether the build is finished.
    """
    if not beats:
        return "The build is finished." if over else "No process has given a sign of life yet."
    rows = [("process", "stage", "done", "rate", "left", "silent", "state")]
    troubles = []
    for beat in beats:
        state, trouble = judge(beat, now=now, host=host, over=over)
        troubles += [trouble] if trouble else []
        rate = f"{beat.rate:,.2f}/s" if beat.rate else "-"
        share = f" ({beat.done / beat.total:.0%})" if beat.total else ""
        times = ("-" if over else _span(beat.seconds_left), _span(now - beat.beat))
        rows.append((str(beat.process), beat.stage, f"{beat.done:,}{share}", rate, *times, state))
    lines = [*lay_out(rows), *map(fold, troubles)]
    for stage in dict.fromkeys(beat.stage for beat in beats):
        of_stage = [beat for beat in beats if beat.stage == stage]
        left = [beat.seconds_left for beat in of_stage]
        # the stage ends with its slowest process
        rest = None if None in left else max(seconds for seconds in left if seconds is not None)
        done, total = (sum(getattr(beat, name) for beat in of_stage) for name in ("done", "total"))
        of_all = f"{done:,} of {total:,} {of_stage[0].unit} by {len(of_stage)} process{'es' * (len(of_stage) > 1)}"
        when = "" if over else f", {_span(rest)} left" + (f", done at {clock(rest, now=now)}" if rest else "")
        lines.append(fold(f"{stage}: {of_all}{when}"))
    return "\n".join([*lines, "The build is finished."] if over else lines)


def judge(beat: Heartbeat, *, now: float, host: str, over: bool = False) -> tuple[str, str]:
    """Returns the state of a process in a word, and what is wrong with it in a sentence, if anything is.

    It is dead, or silent for five times its longest silence yet.
    """
    if over:
        return "finished", ""
    who = f"process {beat.process} ({beat.pid} on {beat.host})"
    if beat.host == host and not _is_alive(beat.pid):
        return "DEAD", f"{who} has ended before the build was through; the same command goes on."
    if beat.ended:
        return "through", ""
    if now - beat.beat > max(PATIENCE, 5 * beat.longest):
        return "STALLED", f"{who} has made no progress for {_span(now - beat.beat)}."
    return "at work", ""


def _column_of(scorer: str) -> str:
    # LongAttn's is made of two when all windows are scored
    return DEPENDENCY_STRENGTH if scorer == LONGATTN else ranking_column(scorer)


def read_new_scores(so_far: "ScoresSoFar", known: "dict[Shard, np.ndarray]") -> None:
    """Adds the scores of the shards that `known` does not have yet, and takes out those that are there no more."""
    there = {shard: scorer for scorer, shards in so_far.scores.items() for shard in shards.values()}
    for gone in known.keys() - there.keys():
        del known[gone]
    for shard, scorer in there.items():
        if shard not in known:
            try:
                # not `read_table`, which takes a category called a=b for a column
                with pq.ParquetFile(shard.path, page_checksum_verification=True) as file:
                    values = file.read([_column_of(scorer)]).column(0).drop_null()
            except (OSError, pa.ArrowInvalid, IndexError):
                # removed meanwhile, or damaged: the build makes it again; or without a row
                continue
            known[shard] = values.to_numpy()


def progress(so_far: "ScoresSoFar") -> list[str]:
    """Lays out how many windows each scorer has scored, in this run and before it, those that decide first."""
    cut, scored = sum(so_far.windows.values()), so_far.scored
    if not any(scored.values()):
        return []
    rows = [("scorer", "scored", "share", "")]
    for name, count in scored.items():
        decides = "decides" if name in so_far.deciding else ""
        rows.append((name, f"{count:,}", f"{count / cut:.0%}" if cut else "-", decides))
    of = fold(f"Scored so far of {cut:,} windows that are cut:" if cut else "Scored so far:")
    return [of, *lay_out(rows), ""]


def histograms(so_far: "ScoresSoFar", scores: "Mapping[Shard, np.ndarray]") -> list[str]:
    """Draws the scores so far of each scorer, a line for each category.

    Args:
        so_far: What there is; a shard's folder is named after its category.
        scores: The scores of each shard.
    """
    lines = []
    for scorer, shards in so_far.scores.items():
        by_category: dict[str, list[np.ndarray]] = {}
        for name, shard in sorted(shards.items()):
            if len(values := scores.get(shard, np.empty(0))):
                by_category.setdefault(name.partition("/")[0], []).append(values)
        if not by_category:
            continue
        whole = {name: np.concatenate(parts) for name, parts in by_category.items()}
        edges = bin_edges(*whole.values(), most=_MOST_BINS)
        lines.append(f"{_column_of(scorer).replace('_', ' ')} so far, from {edges[0]:.3g} to {edges[-1]:.3g}")
        rows = []
        for name, values in whole.items():
            counts, _ = np.histogram(values, edges)
            bars = "".join(_BARS[int(np.ceil((len(_BARS) - 1) * count / counts.max()))] for count in counts)
            rows.append((name, bars, f"mean {values.mean():.3g}", f"{len(values):,} windows"))
        lines += lay_out(rows)
    return lines or ["No scores yet."]


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
