"""From a table of scored and selected windows to the facts of a report."""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.columns import (
    CATEGORY,
    DEPENDENCY_STRENGTH,
    DISTRIBUTION_UNIFORMITY,
    ID,
    KEPT,
    LICENSE,
    LONG_DISTANCE_SCORE,
    SKIP_REASON,
    SOURCE,
)
from longattn_hf.method import CONVENTIONS
from longattn_hf.report.facts import (
    SCORES,
    Agreement,
    CategoryAgreement,
    CategoryFacts,
    Example,
    Extremes,
    SourceFacts,
    Spread,
)
from longattn_hf.selection.standardisation import long_distance_scores
from longattn_hf.selection.summary import WindowCounts, count_windows

_EXAMPLES = 2
_EXCERPT_CHARACTERS = 300
_SOFTWARE = ("longattn_hf", "torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy", "pyarrow")


@dataclass
class DocumentCounts:
    """The documents of a category: how many, those that gave no window by reason, and all by (source, licence)."""

    documents: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    by_source: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)

    def add(self, documents: int, skipped: Mapping[str, int], by_source: Iterable[tuple]) -> None:
        """Adds those of a part; `by_source` are tuples of source, licence and count."""
        self.documents += documents
        self.skipped.update(skipped)
        self.by_source.update({(source, license_): count for source, license_, count in by_source})

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that `add` makes the same counts of, fit for JSON."""
        by_source = [[source, license_, count] for (source, license_), count in self.by_source.items()]
        return {"documents": self.documents, "skipped": self.skipped, "by_source": by_source}


def describe_categories(scores: pa.Table, counts: Mapping[str, DocumentCounts]) -> dict[str, CategoryFacts]:
    """Returns, by category, the table of a report: documents, windows, what was kept, and the scores' ranges."""
    windows = count_windows(scores, scores[KEPT], [CATEGORY])
    # a filter copies what it lets through
    scores = scores.select([n for n in (CATEGORY, KEPT, SKIP_REASON, *SCORES) if n in scores.column_names])
    facts = {}
    for category, counted in counts.items():
        rows = scores.filter(pc.equal(scores[CATEGORY], category))
        kept = rows.filter(rows[KEPT])[LONG_DISTANCE_SCORE]
        scored = rows.filter(rows[LONG_DISTANCE_SCORE].is_valid())
        reasons = rows[SKIP_REASON].drop_null().to_pylist() if SKIP_REASON in rows.column_names else []
        all_windows = windows.get((category,), WindowCounts())
        facts[category] = CategoryFacts(
            documents=counted.documents,
            skipped=dict(sorted(counted.skipped.items())),
            windows=all_windows.windows,
            windows_skipped=dict(sorted(Counter(reasons).items())),
            tokens=all_windows.tokens,
            kept_windows=all_windows.kept_windows,
            kept_tokens=all_windows.kept_tokens,
            kept_documents=all_windows.kept_documents,
            cut=pc.min(kept).as_py(),
            **{name: _spread_of(scored[name].to_numpy()) for name in SCORES},
        )
    return facts


def describe_sources(scores: pa.Table, counts: Mapping[str, DocumentCounts]) -> list[SourceFacts]:
    """Returns a row for each source of each category: its licence, documents, windows and kept windows."""
    windows = count_windows(scores, scores[KEPT], [CATEGORY, SOURCE, LICENSE])
    rows = []
    for category, counted in counts.items():
        for (source, license_), documents in sorted(counted.by_source.items(), key=str):
            here = windows.get((category, source, license_), WindowCounts())
            rows.append(
                SourceFacts(
                    source=source or "unnamed",
                    license=license_ or "unknown",
                    category=category,
                    documents=documents,
                    windows=here.windows,
                    kept_windows=here.kept_windows,
                )
            )
    return rows


def _spread_of(values: np.ndarray) -> Spread:
    if not len(values):
        return Spread(min=None, mean=None, max=None, std=None)
    return Spread(min=values.min(), mean=values.mean(), max=values.max(), std=values.std())


def software_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a score depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _SOFTWARE}}


def compare_conventions(scores: pa.Table, *, convention: str, alpha: float) -> Agreement:
    """Says how the other convention ranks the same windows, and how much of what is kept it would keep too.

    Both readings are taken from the sums that are there; points that would need another scoring run (fp16 weights and
    probabilities, the second BOS, the RoPE base) are not in it. A correlation is None where a category has fewer than
    two windows, a share where it keeps none.
    """
    other = next(name for name in CONVENTIONS if name != convention)
    frame = scores.select([ID, CATEGORY, KEPT, LONG_DISTANCE_SCORE]).to_pandas()
    frame["other"] = long_distance_scores(scores, alpha=alpha, convention=other)
    agreement = {}
    for category, windows in frame[frame[LONG_DISTANCE_SCORE].notna()].groupby(CATEGORY):
        kept = int(windows[KEPT].sum())
        would_keep = windows.sort_values(["other", ID], ascending=[False, True]).head(kept)
        correlation = windows[[LONG_DISTANCE_SCORE, "other"]].rank().corr().iloc[0, 1]
        agreement[str(category)] = CategoryAgreement(
            spearman=float(correlation) if np.isfinite(correlation) else None,
            kept_overlap=float(would_keep[KEPT].mean()) if kept else None,
        )
    return Agreement(other_convention=other, categories=agreement)


def pick_examples(scores: pa.Table, read_texts: Callable[[np.ndarray], list[str]]) -> dict[str, Extremes]:
    """Returns, by category, the windows of highest and lowest score with the beginning of their text.

    Args:
        scores: All windows.
        read_texts: Returns the texts of the rows given.
    """
    names = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, LONG_DISTANCE_SCORE)
    frame = scores.select([ID, CATEGORY, *names]).to_pandas()
    examples = {}
    for category, windows in frame[frame[LONG_DISTANCE_SCORE].notna()].groupby(CATEGORY):
        ranked = windows.sort_values([LONG_DISTANCE_SCORE, ID], ascending=[False, True]).index.to_numpy()
        count = min(_EXAMPLES, len(ranked) // 2) or 1

        def describe(rows: np.ndarray) -> list[Example]:
            return [
                Example(
                    id=row[ID],
                    source=row.get(SOURCE) or "unnamed",
                    **{name: row[name] for name in names},
                    excerpt=text[:_EXCERPT_CHARACTERS],
                )
                for row, text in zip(scores.take(rows).to_pylist(), read_texts(rows), strict=True)
            ]

        examples[str(category)] = Extremes(highest=describe(ranked[:count]), lowest=describe(ranked[-count:]))
    return examples
