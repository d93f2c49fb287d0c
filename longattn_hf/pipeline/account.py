"""What a build tells of itself: its stages as they begin, what it found done, and what another selection changes."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from longattn_hf.columns import DOC_HASH, ID, KEPT
from longattn_hf.pipeline.certify import Certified
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.processes import Process
from longattn_hf.pipeline.result import Changes
from longattn_hf.pipeline.shards import ScoredShards, read_shard
from longattn_hf.pipeline.traces import stamps


class Account:
    """Logs, on the first process, what goes on, and keeps the numbers for the build's result.

    Whatever did the work, a shard that is as it was when the build began was made by an earlier run.

    Attributes:
        reused: What was found done of `documents`, `windows`, `scores` and, of a certified build, `scores_again`.
        scored_windows: How many windows were scored, by whichever process.
        changes: What is kept other than before; None as long as nothing is.
    """

    def __init__(self, config: BuildConfig, folder: BuildFolder, process: Process) -> None:
        self.reused: dict[str, int] = {}
        self.scored_windows = 0
        self.changes: Changes | None = None
        self._folder, self._process = folder, process
        scorers = list(config.choice.scorers)
        stages = {
            "window": "cutting documents into windows",
            "score": f"scoring by {', '.join(scorers)}",
            "certify": "scoring again where the cut hangs on it" if config.certify else None,
            "select": "selecting",
            "write": "writing the dataset, its report and its card",
            "publish": "publishing" if config.push_to_hub else None,
        }
        self._stages = {name: what for name, what in stages.items() if what}
        self._scores = {name: folder.scores_by(name) for name in scorers}
        looked_at = [folder.windows, *self._scores.values()] if process.index == 0 else []
        self._before = {path: stamps(path) for path in looked_at}

    def begin(self, stage: str) -> None:
        """Says which stage of how many begins."""
        number = [*self._stages].index(stage) + 1
        self._process.say("%d of %d: %s", number, len(self._stages), self._stages[stage])

    def windowed(self, shards: Mapping[str, Mapping[str, Any]]) -> None:
        """Says what was windowed; takes the facts of all shards by name."""
        found = self._found_done(self._folder.windows)
        counts = {"documents": Counter[bool](), "windows": Counter[bool]()}
        for name, facts in shards.items():
            counts["documents"][name in found] += facts["documents"]
            counts["windows"][name in found] += facts["rows"]
        self.reused |= {what: count[True] for what, count in counts.items()}
        self._process.say("  %s", ", ".join(_say_count(what, count) for what, count in counts.items()))

    def scored(self, shards: ScoredShards) -> None:
        """Says what was scored, scorer by scorer."""
        found = {scorer: self._found_done(path) for scorer, path in self._scores.items()}
        counts = {scorer: Counter[bool]() for scorer in found}
        for name, rows in zip(shards.names, shards.rows.tolist(), strict=True):
            for scorer, done in found.items():
                counts[scorer][name in done] += rows
            self.scored_windows += 0 if all(name in done for done in found.values()) else rows
        self.reused["scores"] = sum(count[True] for count in counts.values())
        self._process.say("  %s", ", ".join(_say_count(f"scores by {name}", count) for name, count in counts.items()))

    def certified(self, certified: Certified) -> None:
        """Says what was scored again."""
        self.scored_windows += certified.scored
        self.reused["scores_again"] = certified.reused
        count = Counter({False: certified.scored, True: certified.reused})
        self._process.say("  %s", _say_count("scores again", count))

    def selected(self, table: pa.Table) -> None:
        """Says what is kept, and what of it was before; call it while the earlier selection is in its place."""
        kept = _kept_windows(table)
        line = f"{kept.total():,} of {len(table):,} windows kept"
        if self._folder.finished.exists():
            # what is damaged takes part in no comparison, and is about to be replaced
            with suppress(ValueError, KeyError):
                paths = self._folder.published_scores.glob("*.parquet")
                before = sum((_kept_windows(read_shard(path, [ID, DOC_HASH, KEPT])) for path in paths), Counter[Any]())
                self.changes = Changes(
                    added=(kept - before).total(), removed=(before - kept).total(), unchanged=(kept & before).total()
                )
                line += f": {self.changes}"
        self._process.say("  %s", line)

    def _found_done(self, path: Path) -> set[str]:
        now = stamps(path)
        return {name for name, stamp in self._before.get(path, {}).items() if now.get(name) == stamp}


def _say_count(what: str, count: Counter[bool]) -> str:
    return f"{count.total():,} {what}" + (f" ({count[True]:,} from an earlier run)" if count[True] else "")


def _kept_windows(table: pa.Table) -> Counter[Any]:
    """Counts the kept windows by what tells them apart: several documents may have one id."""
    kept = table.select([ID, DOC_HASH]).filter(table[KEPT])
    return Counter(zip(*(column.to_pylist() for column in kept.columns), strict=True))
