"""Windows that show what a selection does: its best and worst, those refused, those that another score would keep."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from longattn_hf.columns import CATEGORY, ID, KEPT, SOURCE
from longattn_hf.report.describe import agreement_of
from longattn_hf.report.parts import LONGATTN_SCORES, CategoryAgreement, Example, Extremes
from longattn_hf.selection.cut import Selection
from longattn_hf.selection.gate import is_refused
from longattn_hf.selection.summary import pick_largest

_EXAMPLES = 2
_EXCERPT_CHARACTERS = 300

#: Returns, of rows of the score table, a passage of the text and the share of its attention that is far, if known.
ReadPassages = Callable[[np.ndarray], list[tuple[str, float | None]]]


def pick_examples(
    scores: pa.Table, selection: Selection, names: Sequence[str], read_passages: ReadPassages
) -> dict[str, Extremes]:
    """Returns, by category, the windows of highest and lowest score with a passage of their text.

    Of more than ten categories, those with the most windows have examples.

    Args:
        scores: All windows, as `selection.apply` returns them.
        selection: How they were selected.
        names: The columns of scores.
        read_passages: Reads their passages.
    """
    examples = {}
    for category, windows in _largest(_frame(scores, selection.ranked_by)).groupby(CATEGORY):
        ranked = windows.sort_values(["rank", ID], ascending=[False, True]).index.to_numpy()
        count = min(_EXAMPLES, len(ranked) // 2) or 1
        highest, lowest = (_examples(scores, rows, names, read_passages) for rows in (ranked[:count], ranked[-count:]))
        examples[str(category)] = Extremes(highest=highest, lowest=lowest)
    return examples


def pick_refused(
    scores: pa.Table, selection: Selection, names: Sequence[str], read_passages: ReadPassages
) -> dict[str, list[Example]]:
    """Returns, by category, the best of the windows that a gate refused; arguments as those of `pick_examples`."""
    frame = _frame(scores, selection.ranked_by)
    refused = is_refused(scores, selection.gate)
    return {
        str(category): _examples(
            scores,
            windows.sort_values(["rank", ID], ascending=[False, True]).index.to_numpy()[:_EXAMPLES],
            names,
            read_passages,
        )
        for category, windows in _largest(frame[refused[frame.index]]).groupby(CATEGORY)
    }


def compare_scores(
    scores: pa.Table, selection: Selection, names: Sequence[str], read_passages: ReadPassages
) -> dict[str, dict[str, CategoryAgreement]]:
    """Says, score by score and by category, how alike each other score ranks the windows, and where it does not.

    Arguments are those of `pick_examples`. Of LongAttn's scores only the combined one is compared.
    """
    ranked_by = selection.ranked_by
    others = [name for name in names if name not in (ranked_by, *LONGATTN_SCORES[:-1])]
    compared = {}
    for name in others:
        there = scores[name].to_numpy().astype(np.float64)
        agreement = agreement_of(scores, ranked_by, there)
        frame = _frame(scores, ranked_by)
        frame = frame.assign(there=there[frame.index]).dropna()
        ranks = frame.groupby(CATEGORY)[["rank", "there"]].rank()
        frame["apart"] = ranks["there"] - ranks["rank"]
        for category, windows in _largest(frame).groupby(CATEGORY):
            here, not_here = windows[windows[KEPT]], windows[~windows[KEPT]]
            picked = {}
            if len(here) and here["apart"].min() < 0:
                picked["only_here"] = here["apart"].idxmin()
            if len(not_here) and not_here["apart"].max() > 0:
                picked["only_there"] = not_here["apart"].idxmax()
            examples: dict[str, Any] = {
                side: _examples(scores, np.array([row]), names, read_passages)[0] for side, row in picked.items()
            }
            agreement[str(category)] = replace(agreement[str(category)], **examples)
        compared[name] = agreement
    return compared


def _frame(scores: pa.Table, ranked_by: str) -> pd.DataFrame:
    """The windows that were ranked; their index is that of the table's rows."""
    frame = scores.select([ID, CATEGORY, KEPT, ranked_by]).to_pandas().rename(columns={ranked_by: "rank"})
    return frame[frame["rank"].notna()]


def _largest(frame: pd.DataFrame) -> pd.DataFrame:
    """Those of the ranked windows that are of the largest categories."""
    counts = {str(name): count for name, count in frame[CATEGORY].value_counts(sort=False).items()}
    return frame[frame[CATEGORY].isin(pick_largest(counts))]


def echoing_passage(text: str) -> str:
    """Returns the passage with the most words that stood far before it, a quarter of the text or more.

    It is what there is to show where no attention was read; of a text without such words the beginning.
    """
    first: dict[str, int] = {}
    far = [
        word.start()
        for word in re.finditer(r"\w{5,}", text)
        if word.start() - first.setdefault(word[0], word.start()) >= max(len(text) // 4, _EXCERPT_CHARACTERS)
    ]
    ends = np.searchsorted(far, np.array(far) + _EXCERPT_CHARACTERS)
    start = far[int(np.argmax(ends - np.arange(len(far))))] if far else 0
    return text[start : start + _EXCERPT_CHARACTERS]


def _examples(scores: pa.Table, rows: np.ndarray, names: Sequence[str], read_passages: ReadPassages) -> list[Example]:
    return [
        Example(
            id=row[ID],
            source=row.get(SOURCE) or "unnamed",
            scores={name: row[name] for name in names},
            excerpt=text[:_EXCERPT_CHARACTERS],
            far_share=share,
        )
        for row, (text, share) in zip(scores.take(rows).to_pylist(), read_passages(rows), strict=True)
    ]
