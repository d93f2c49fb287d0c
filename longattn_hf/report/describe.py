"""From a table of scored and selected windows to the facts of a report."""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.columns import (
    CATEGORY,
    ID,
    KEPT,
    LICENSE,
    LONG_DISTANCE_SCORE,
    SKIP_REASON,
    SOURCE,
)
from longattn_hf.method import CONVENTIONS
from longattn_hf.report.parts import Agreement, CategoryAgreement, CategoryFacts, SourceFacts, Spread
from longattn_hf.selection.cautions import count_reasons, count_tied
from longattn_hf.selection.cut import Selection
from longattn_hf.selection.gate import is_refused, refusals
from longattn_hf.selection.standardisation import long_distance_scores
from longattn_hf.selection.summary import WindowCounts, count_windows

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


def describe_categories(
    scores: pa.Table, counts: Mapping[str, DocumentCounts], selection: Selection, names: Sequence[str]
) -> dict[str, CategoryFacts]:
    """Returns, by category, the table of a report: documents, windows, what was kept, and the scores' ranges.

    Args:
        scores: All windows, as `selection.apply` returns them.
        counts: The documents of each category.
        selection: How the windows were selected.
        names: The columns of scores.
    """
    windows = count_windows(scores, scores[KEPT], [CATEGORY])
    gate, passes = refusals(scores, selection.gate), ~is_refused(scores, selection.gate)
    # a filter copies what it lets through
    columns = dict.fromkeys((CATEGORY, KEPT, SKIP_REASON, selection.ranked_by, *names))
    scores = scores.select([name for name in columns if name in scores.column_names])
    facts = {}
    for category, counted in counts.items():
        here = pc.equal(scores[CATEGORY], category)
        rows = scores.filter(here)
        ranks = rows[selection.ranked_by]
        reasons = rows.filter(ranks.is_null())[SKIP_REASON].drop_null() if SKIP_REASON in rows.column_names else []
        is_here = here.to_numpy(zero_copy_only=False)
        refused = {reason: int((mask & is_here).sum()) for reason, mask in gate.items()}
        ranked = ranks.is_valid().to_numpy(zero_copy_only=False) & passes[is_here]
        # by a draw, equal scores are not equally placed
        tied = 0 if selection.temperature else count_tied(ranks.to_numpy()[ranked], rows[KEPT].to_numpy()[ranked])
        all_windows = windows.get((category,), WindowCounts())
        facts[category] = CategoryFacts(
            documents=counted.documents,
            skipped=dict(sorted(counted.skipped.items())),
            windows=all_windows.windows,
            windows_skipped=count_reasons(reasons),
            tokens=all_windows.tokens,
            kept_windows=all_windows.kept_windows,
            kept_tokens=all_windows.kept_tokens,
            kept_documents=all_windows.kept_documents,
            cut=pc.min(ranks.filter(rows[KEPT])).as_py(),
            scores={name: _spread_of(rows[name].drop_null().to_numpy()) for name in names},
            refused=refused,
            tied=tied,
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
    """Returns the versions of Python and of the packages that a score may depend on, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for name in _SOFTWARE:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def compare_conventions(scores: pa.Table, selection: Selection) -> Agreement:
    """Says how the other convention ranks the same windows, and how much of what is kept it would keep too.

    Both readings are taken from the sums that are there; points that would need another scoring run (fp16 weights and
    probabilities, the second BOS, the RoPE base) are not in it.
    """
    other = next(name for name in CONVENTIONS if name != selection.convention)
    there = long_distance_scores(scores, alpha=selection.alpha, convention=other, statistics=selection.statistics)
    return Agreement(other_convention=other, categories=agreement_of(scores, LONG_DISTANCE_SCORE, there))


def agreement_of(scores: pa.Table, here: str, there: np.ndarray) -> dict[str, CategoryAgreement]:
    """Compares a column with another score, float64 `[len(scores)]`, of all windows that have both, by category.

    A correlation is None where a category has fewer than two windows, a share where it keeps none.
    """
    frame = scores.select([ID, CATEGORY, KEPT, here]).to_pandas().rename(columns={here: "here"})
    frame["there"] = there
    agreement = {}
    for category, windows in frame.dropna(subset=["here", "there"]).groupby(CATEGORY):
        kept = int(windows[KEPT].sum())
        would_keep = windows.sort_values(["there", ID], ascending=[False, True]).head(kept)
        correlation = windows[["here", "there"]].rank().corr().iloc[0, 1]
        agreement[str(category)] = CategoryAgreement(
            spearman=float(correlation) if np.isfinite(correlation) else None,
            kept_overlap=float(would_keep[KEPT].mean()) if kept else None,
        )
    return agreement
