"""What a build has come to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from datasets import Dataset, load_dataset

from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import CategoryFacts


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A finished build; as text, its table.

    Attributes:
        folder: Where it is on this machine: `load_dataset(str(folder), category)` reads the kept windows, "scores" all
            scores.
        scored_windows: How many windows this process scored; 0 where all were found done.
        published: What came of publishing it; None where that was not asked for.
    """

    folder: Path
    scored_windows: int
    published: str | None = field(default=None, repr=False)

    @cached_property
    def report(self) -> Report:
        """All facts of the build."""
        return Report.from_json(BuildFolder(self.folder).report.read_text(encoding="utf-8"))

    @property
    def categories(self) -> Mapping[str, CategoryFacts]:
        """What was read, cut, scored and kept of each category."""
        return self.report.run_categories

    def load(self, category: str) -> Dataset:
        """Returns the kept windows of a category, in the corpus's order."""
        return load_dataset(str(self.folder), category, split="train")

    def __str__(self) -> str:
        ranked_by = self.report.ranked_by
        head = ("category", "documents", "windows", "kept", "kept tokens", "min/mean/max", "lowest kept")
        rows: list[tuple[str, ...]] = [head]
        for name, facts in self.categories.items():
            spread = facts.scores[ranked_by]
            ends = "/".join(_short(end) for end in (spread.min, spread.mean, spread.max))
            counts = (facts.documents, facts.windows, facts.kept_windows, facts.kept_tokens)
            rows.append((name, *(f"{count:,}" for count in counts), ends, _short(facts.cut)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(width) for c, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"Ranked by {ranked_by}:", *lines])


def _short(number: float | None) -> str:
    return "-" if number is None else f"{round(number, 12) + 0.0:.3g}"
