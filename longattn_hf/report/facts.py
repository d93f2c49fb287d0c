"""The facts of a finished build, from its score table: what card, figures and the terminal's table are made of.

A report holds plain values only, no times and no local paths, so equal builds have equal reports.
"""

import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from longattn_hf.columns import (
    CATEGORY,
    DEPENDENCY_STRENGTH,
    DISTRIBUTION_UNIFORMITY,
    DOC_ID,
    ID,
    KEPT,
    LONG_DISTANCE_SCORE,
    MAP_VARIANCE,
    SKIP_REASON,
)
from longattn_hf.method import CONVENTIONS
from longattn_hf.pipeline.shards import read_facts
from longattn_hf.selection.standardisation import long_distance_scores

_EXAMPLES = 2
_EXCERPT_CHARACTERS = 300
_SOFTWARE = ("longattn_hf", "torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy", "pyarrow")


def software_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a score depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _SOFTWARE}}


def count_documents(names: Sequence[str], windows: Path) -> dict[str, dict[str, Any]]:
    """Adds up what windowing noted beside each shard of windows.

    Returns:
        By category: `documents`, `skipped` (by reason) and `documents_by_source` (by `(source, license)`).
    """
    counts: dict[str, dict[str, Any]] = {}
    for name in names:
        facts = read_facts(windows / name) or {}
        mine = counts.setdefault(
            Path(name).parent.as_posix(), {"documents": 0, "skipped": Counter(), "documents_by_source": Counter()}
        )
        mine["documents"] += facts["documents"]
        mine["skipped"].update(facts["skipped"])
        mine["documents_by_source"].update({(s, license_): n for s, license_, n in facts["documents_by_source"]})
    return counts


def describe_categories(scores: pa.Table, counts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns, by category, the table of a report: documents, windows, what was kept, and the scores' ranges."""
    described = {}
    frame = _frame(scores)
    for category, counted in counts.items():
        windows = frame[frame[CATEGORY] == category]
        kept = windows[windows[KEPT]]
        scored = windows[windows[LONG_DISTANCE_SCORE].notna()]
        described[category] = {
            "documents": counted["documents"],
            "skipped": dict(sorted(counted["skipped"].items())),
            "windows": len(windows),
            "windows_skipped": {
                reason: int(n) for reason, n in sorted(windows[SKIP_REASON].dropna().value_counts().items())
            },
            "tokens": int(windows["num_tokens"].sum()),
            "kept_windows": len(kept),
            "kept_tokens": int(kept["num_tokens"].sum()),
            "kept_documents": int(kept[DOC_ID].nunique()),
            "cut": float(kept[LONG_DISTANCE_SCORE].min()) if len(kept) else None,
            **{
                name: _range(scored[name])
                for name in (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE, LONG_DISTANCE_SCORE)
            },
        }
    return described


def describe_sources(scores: pa.Table, counts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each source of each category: its licence, documents, windows and kept windows."""
    frame = _frame(scores)
    keys = [CATEGORY, "source", "license"]
    groups = frame.groupby(keys, dropna=False)[KEPT]
    windows = {_plain(key): int(n) for key, n in groups.size().items()}
    kept = {_plain(key): int(n) for key, n in groups.sum().items()}
    return [
        {
            "source": source or "unnamed",
            "license": license_ or "unknown",
            "category": category,
            "documents": documents,
            "windows": windows.get((category, source, license_), 0),
            "kept_windows": kept.get((category, source, license_), 0),
        }
        for category, counted in counts.items()
        for (source, license_), documents in sorted(counted["documents_by_source"].items(), key=str)
    ]


def compare_conventions(scores: pa.Table, *, convention: str, alpha: float) -> dict[str, Any]:
    """Says how the other convention ranks the same windows, and how much of what is kept it would keep too.

    Both readings are taken from the sums that are there; points that would need another scoring run (fp16 weights and
    probabilities, the second BOS, the RoPE base) are not in it.

    Returns:
        `other_convention`, and by category `spearman` (rank correlation of the long-distance scores) and
        `kept_overlap` (the share of the kept windows among as many best of the other convention); null where a
        category has fewer than two windows, or keeps none.
    """
    other = next(name for name in CONVENTIONS if name != convention)
    frame = _frame(scores)
    frame["other"] = long_distance_scores(scores, alpha=alpha, convention=other)
    agreement = {}
    for category, windows in frame[frame[LONG_DISTANCE_SCORE].notna()].groupby(CATEGORY):
        kept = windows[windows[KEPT]]
        would_keep = windows.sort_values(["other", ID], ascending=[False, True]).head(len(kept))
        correlation = windows[[LONG_DISTANCE_SCORE, "other"]].rank().corr().iloc[0, 1]
        agreement[str(category)] = {
            "spearman": float(correlation) if np.isfinite(correlation) else None,
            "kept_overlap": float(would_keep[KEPT].mean()) if len(kept) else None,
        }
    return {"other_convention": other, "categories": agreement}


def pick_examples(scores: pa.Table, read_texts: Callable[[np.ndarray], list[str]]) -> dict[str, dict[str, list]]:
    """Returns, by category, the windows of highest and lowest score with the beginning of their text.

    Args:
        scores: All windows.
        read_texts: Returns the texts of the rows given.
    """
    frame = _frame(scores)
    scored = frame[frame[LONG_DISTANCE_SCORE].notna()]
    examples: dict[str, dict[str, list]] = {}
    for category, windows in scored.groupby(CATEGORY):
        ranked = windows.sort_values([LONG_DISTANCE_SCORE, ID], ascending=[False, True])
        count = min(_EXAMPLES, len(ranked) // 2) or 1
        ends = {"highest": ranked.head(count), "lowest": ranked.tail(count)}
        examples[str(category)] = {
            end: [
                {
                    "id": row[ID],
                    "source": row["source"] or "unnamed",
                    **{n: float(row[n]) for n in (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, LONG_DISTANCE_SCORE)},
                    "excerpt": text[:_EXCERPT_CHARACTERS],
                }
                for (_, row), text in zip(chosen.iterrows(), read_texts(chosen.index.to_numpy()), strict=True)
            ]
            for end, chosen in ends.items()
        }
    return examples


def _frame(scores: pa.Table) -> pd.DataFrame:
    wanted = (ID, DOC_ID, CATEGORY, "source", "license", "num_tokens", KEPT, SKIP_REASON, LONG_DISTANCE_SCORE)
    names = [*wanted, DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE]
    frame = scores.select([name for name in names if name in scores.column_names]).to_pandas()
    for name in names:
        if name not in frame:
            frame[name] = None
    return frame


def _plain(key: tuple) -> tuple:
    """Replaces pandas' missing values by None."""
    return tuple(None if pd.isna(value) else value for value in key)


def _range(values: pd.Series) -> dict[str, float | None]:
    if not len(values):
        return dict.fromkeys(("min", "mean", "max", "std"))
    return {
        "min": float(values.min()),
        "mean": float(values.mean()),
        "max": float(values.max()),
        "std": float(values.std(ddof=0)),
    }
