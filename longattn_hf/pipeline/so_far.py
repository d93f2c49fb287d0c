"""What a build that goes on, or was killed, has scored so far, scorer by scorer, as its selection would join it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from longattn_hf.baselines.by_name import SCORERS
from longattn_hf.files import parse_record, write_record
from longattn_hf.pipeline.choice import ScorerChoice
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.shards import facts_in, score_fingerprint


@dataclass(frozen=True)
class Shard:
    """A file of scores, how many windows it has, and what tells it from another file under its name."""

    path: str
    rows: int
    stamp: str


def write_plan(folder: BuildFolder, config: BuildConfig, made_from: Mapping[str, str]) -> None:
    """Writes down, for those who look on, how the build at work ranks and selects.

    Args:
        folder: The build's.
        config: Its settings.
        made_from: What the scores of each scorer are made from, by its name.

    Raises:
        OSError: As `write_record`.
    """
    plan = {"scorers": list(config.choice.weights), "made_from": dict(made_from), "selection": config.choosing}
    write_record(folder.ranking, plan)


class ScoresSoFar:
    """The shards of scores that a build has so far.

    Those count that are of the windows beside them, by the scorers that are at work; others, which an earlier run has
    left, the same command makes anew. Where an older build has not written down how it scores, all count.

    Args:
        folder: The build's.
        files: Where it is; this machine if None.

    Attributes:
        settings: Those that select, as in `BuildConfig`; none where they were not written down.
        deciding: The scorers without which nothing is kept, those that rank first.
        scorers: All of the build, the deciding ones first; where that is not known, those that have scores.
        windows: How many windows each shard of windows has, by its name.
        scores: By scorer, its shards of scores under the names of those of windows.
    """

    def __init__(self, folder: BuildFolder, files: AbstractFileSystem | None = None) -> None:
        self._folder, self._files = folder, files or fsspec.filesystem("file")
        self._seen: dict[str, tuple[str, dict[str, Any] | None]] = {}
        self.look()

    def look(self) -> None:
        """Takes in what has come since; a file that was read before, and is the same, is not read again."""
        folder, plan = self._folder, self._read_plan()
        self.settings: dict[str, Any] = plan.get("selection", {})
        cut = {name: facts for name, (_, _, facts) in self._list(folder.windows).items()}
        self.windows: dict[str, int] = {name: facts["rows"] for name, facts in cut.items()}
        if self.settings:
            choice = ScorerChoice.of_settings(self.settings)
            self.deciding, names = choice.deciding, list(choice.scorers)
        else:
            names = [name for name in SCORERS if self._list(folder.scores_by(name))]
            self.deciding = plan.get("scorers") or names[:1]
        self.scorers = list(dict.fromkeys((*self.deciding, *names)))
        self.scores: dict[str, dict[str, Shard]] = {}
        for scorer in self.scorers:
            made_from, found = plan.get("made_from", {}).get(scorer), {}
            for name, (path, stamp, facts) in self._list(folder.scores_by(scorer)).items():
                of_windows = cut.get(name, {}).get("fingerprint")
                if made_from is None or facts.get("fingerprint") == score_fingerprint(made_from, of_windows):
                    found[name] = Shard(path, facts["rows"], stamp)
            self.scores[scorer] = found

    @property
    def scored(self) -> dict[str, int]:
        """How many windows each scorer has scored."""
        return {name: sum(shard.rows for shard in shards.values()) for name, shards in self.scores.items()}

    @property
    def whole(self) -> list[str]:
        """The names of the shards that all deciding scorers have scored, in the corpus's order."""
        first, *others = (self.scores[name] for name in self.deciding) if self.deciding else ({},)
        return sorted(name for name in first if all(name in shards for shards in others))

    def _read_plan(self) -> dict[str, Any]:
        # missing, or replaced at this moment
        with suppress(OSError):
            return parse_record(self._files.cat_file(self._folder.ranking.as_posix()), self._folder.ranking.name)
        return {}

    def _list(self, folder: Path) -> dict[str, tuple[str, str, dict[str, Any]]]:
        """Returns path, stamp and facts of a folder's shards by name; without those that are damaged."""
        found = {}
        # a folder's own name may hold brackets
        for path, info in sorted(self._files.glob(f"{escape(folder.as_posix())}/*/*.parquet", detail=True).items()):
            stamp = str(info)
            if self._seen.get(path, ("",))[0] != stamp:
                self._seen[path] = stamp, self._read_facts(path)
            if (facts := self._seen[path][1]) is not None:
                found["/".join(path.split("/")[-2:])] = path, stamp, facts
        return found

    def _read_facts(self, path: str) -> dict[str, Any] | None:
        try:
            with self._files.open(path, "rb") as file:
                return facts_in(pq.read_metadata(file))
        except (OSError, pa.ArrowInvalid, ValueError):
            return None
