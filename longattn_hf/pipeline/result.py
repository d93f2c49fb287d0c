"""What a build has come to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from longattn_hf.files import as_pattern
from longattn_hf.hub.publishing import Publication
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.terminal import lay_out
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import CategoryFacts


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What another selection has made of the windows kept before: how many are new, gone, and kept as before."""

    added: int
    removed: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.added:,} added, {self.removed:,} removed, {self.unchanged:,} kept as before"


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A finished build; as text, its table.

    Attributes:
        folder: Where it is on this machine: `load_dataset(str(folder), category)` reads the kept windows, "scores" all
            scores.
        scored_windows: How many windows were scored, by whichever process; those that a certified cut had scored
            again count again, and 0 says that all were found done.
        reused: What was found done of `documents`, `windows` and `scores`, and of a certified build's `scores_again`;
            empty where nothing was looked for.
        changes: What is kept other than before; None where no selection was there, or this very one.
        is_new: Whether there was something to do.
        published: What came of publishing it; None where that was not asked for.
    """

    folder: Path
    scored_windows: int
    reused: Mapping[str, int] = field(default_factory=dict, repr=False)
    changes: Changes | None = field(default=None, repr=False)
    is_new: bool = field(default=True, repr=False)
    published: Publication | None = field(default=None, repr=False)

    @cached_property
    def report(self) -> Report:
        """All facts of the build."""
        return Report.from_json(BuildFolder(self.folder).report.read_text(encoding="utf-8"))

    @property
    def categories(self) -> Mapping[str, CategoryFacts]:
        """What was read, cut, scored and kept of each category."""
        return self.report.run_categories

    def load(self, category: str) -> Dataset:
        """Returns the kept windows of a category, in the corpus's order; of "scores" all windows with their scores.

        Raises:
            ValueError: There is no such category.
        """
        if category not in (configs := self.report.configs):
            raise ValueError(f"There is no category {category!r}; there are {', '.join(configs)}.")
        # by its files: `datasets` finds none by themselves in a folder that is called like a pattern
        files = as_pattern(str(Path(self.folder) / configs[category].data_files))
        return load_dataset("parquet", data_files=files, split="train")

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return {
            "folder": str(self.folder),
            "ranked_by": self.report.ranked_by,
            "categories": {name: _count(facts) | {"cut": facts.cut} for name, facts in self.categories.items()},
            "scored_windows": self.scored_windows,
            "reused": dict(self.reused),
            "changes": self.changes and asdict(self.changes),
            "cautions": self.report.cautions,
            "is_new": self.is_new,
            "published": self.published and self.published.facts,
        }

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("category", "documents", "windows", "kept", "tokens kept", "share", "cut")]
        rows += [_cells(name, _count(facts), facts.cut) for name, facts in self.categories.items()]
        if len(self.categories) > 1:
            rows.append(_cells("all", _count(*self.categories.values()), None))
        how = "Drawn at random, the likelier the higher," if self.report.settings.get("temperature") else "Ranked"
        return "\n".join([f"{how} by {self.report.ranked_by}; the cut is the lowest score kept:", *lay_out(rows)])


def _count(*categories: CategoryFacts) -> dict[str, int]:
    names = ("documents", "windows", "tokens", "kept_windows", "kept_tokens")
    return {name: sum(getattr(facts, name) for facts in categories) for name in names}


def _cells(name: str, counts: Mapping[str, int], cut: float | None) -> tuple[str, ...]:
    shown = (f"{counts[column]:,}" for column in ("documents", "windows", "kept_windows", "kept_tokens"))
    share = f"{counts['kept_tokens'] / counts['tokens']:.1%}" if counts["tokens"] else "-"
    return name, *shown, share, "-" if cut is None else f"{round(cut, 12) + 0.0:.3g}"
