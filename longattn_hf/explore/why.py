"""Why a window has its score, in sentences made of its own numbers; knows neither web pages nor models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from longattn_hf.columns import (
    CATEGORY,
    DEPENDENCY_STRENGTH,
    DISTRIBUTION_UNIFORMITY,
    LONG_DISTANCE_SCORE,
    MAP_VARIANCE,
)
from longattn_hf.explore.token_texts import Received, name_text
from longattn_hf.method import get_convention
from longattn_hf.pages.page import visible
from longattn_hf.selection.standardisation import ScoreStatistics, group_rows

# a share of the far attention at which the first token is worth a sentence
_AT_REST = 0.05


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a window stands by one score: its rank from 1, ties sharing the best, among `windows` that have it."""

    name: str
    value: float
    rank: int
    lower: int
    windows: int

    @classmethod
    def of(cls, name: str, values: np.ndarray, value: float) -> "Place":
        """Takes the place of `value` among float64 `values`, NaN being none."""
        there = values[~np.isnan(values)]
        rank, lower = 1 + int((there > value).sum()), int((there < value).sum())
        return cls(
            name=name.replace("_", " ").replace("long dist", "long-dist"),
            value=float(value),
            rank=rank,
            lower=lower,
            windows=len(there),
        )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a window stands among those of its category.

    Attributes:
        category: The category.
        by: Its place by the score that ranks.
        others: Its places by other scores.
        kept: Whether it is kept; None where nothing was selected.
        kept_windows: How many are; half of the windows where nothing was selected.
        parts: Of LongAttn's score, the two terms on the category's scale, before the second is weighted.
        weight: Of the second, with its sign.
        standardisation: The scale, `zscore` or `minmax`.
    """

    category: str
    by: Place
    others: Sequence[Place]
    kept: bool | None
    kept_windows: int
    parts: Mapping[str, float]
    weight: float
    standardisation: str

    def sentences(self) -> list[str]:
        """Says it in words."""
        inside = self.by.rank <= self.kept_windows
        best = "the upper half" if self.kept is None else f"the best {self.kept_windows:,}"
        state = "" if self.kept is None else f"; {'kept' if self.kept else 'not kept'} ({self.kept_windows:,} are)"
        if self.kept not in (None, inside):
            state += ", which its rank alone does not say: a tie, an overlap, a gate or a draw decided"
        value = f"{self.by.value:.2f}" if self.parts else _number(self.by.value)
        place = f"Rank {self.by.rank:,} of {self.by.windows:,} in {visible(self.category)}"
        sentences = [
            f"{self.by.name.capitalize()} {value}{self._say_parts()}.",
            f"{place}, above {_percent(self.by.lower / self.by.windows)} of them{state}.",
        ]
        for other in self.others:
            among = f"{'' if other.rank <= self.kept_windows else 'not '}in {best}"
            verdict = " by either" if (other.rank <= self.kept_windows) == inside else ": the two scores disagree"
            place = f"rank {other.rank:,} of {other.windows:,}"
            sentences.append(f"By {other.name} ({_number(other.value)}) {place}, {among}{verdict}.")
        return sentences

    def _say_parts(self) -> str:
        if not self.parts:
            return ""
        (first, one), (second, two) = self.parts.items()
        if self.standardisation == "zscore":
            terms = [f"{abs(value):.2f} {'below' if value < 0 else 'above'}" for value in (one, two)]
            terms[0] = terms[0].replace(" ", " standard deviations ") + " the mean of its category"
        else:
            terms = [f"{_percent(one)} of the way from its category's least to its largest", _percent(two)]
        return f": {first} {terms[0]}, {second} {terms[1]}, which counts {self.weight:g} times"


def stand(
    table: pa.Table,
    row: int,
    scores: Mapping[str, np.ndarray],
    *,
    kept: np.ndarray | None = None,
    alpha: float = 0.5,
    convention: str = "paper",
    statistics: ScoreStatistics | None = None,
) -> Standing | None:
    """Finds where a window stands; None where it has no score.

    Args:
        table: All windows, with their category, and LongAttn's raw scores where its score is the first.
        row: The window.
        scores: By name, float64 `[N]` with NaN for none; the first ranks.
        kept: bool `[N]`, what is kept.
        alpha: As the next two, of `long_distance_scores`.
        convention: See `alpha`.
        statistics: See `alpha`.
    """
    ranked_by = next(iter(scores))
    if np.isnan(scores[ranked_by][row]):
        return None
    category, reading = str(table[CATEGORY][row].as_py()), get_convention(convention)
    rows = group_rows(table, CATEGORY, ~np.isnan(scores[ranked_by]))[category]
    first, *others = (
        Place.of(n, values[rows], values[row]) for n, values in scores.items() if values[row] == values[row]
    )
    second = DISTRIBUTION_UNIFORMITY if reading.variance_over == "block" else MAP_VARIANCE
    parts: dict[str, float] = {}
    if ranked_by == LONG_DISTANCE_SCORE:
        moments = (statistics or ScoreStatistics.of(table.take(pa.array(rows)))).by_category[category]
        for column in (DEPENDENCY_STRENGTH, second):
            value = moments[column].standardise(np.array([table[column][row].as_py()]), reading.standardisation)
            parts[column.split("_")[-1]] = float(value[0])
    return Standing(
        category=category,
        by=first,
        others=others,
        kept=None if kept is None else bool(kept[row]),
        kept_windows=-(-len(rows) // 2) if kept is None else int(kept[rows].sum()),
        parts=parts,
        weight=alpha if second == DISTRIBUTION_UNIFORMITY else -alpha,
        standardisation=reading.standardisation,
    )


def say_attention(
    by_text: Sequence[Received], *, strength: float, even: float, min_distance: int, first: float, heads: np.ndarray
) -> list[str]:
    """Says in words where a window's attention goes.

    `strength` and `even` are the dependency strengths of it and of attention spread evenly, `heads` `[Q]` those of
    each head; `first` is the share of the far attention that the window's first token receives.
    """
    most, least = int(np.argmax(heads)), int(np.argmin(heads))
    sentences = [
        f"Of all attention {_percent(strength)} goes at least {min_distance:,} tokens back (the strength); spread "
        f"evenly, {_percent(even)} would. Head {most} sends most, {_percent(heads[most])}, head {least} least, "
        f"{_percent(heads[least])}."
    ]
    if by_text[0].share:
        texts = [
            f"{name_text(one.text)} {_percent(one.share)} ({one.share / one.even:.2g} times even)"
            for one in by_text[:3]
            if one.share
        ]
        # a part of a character may be of a letter
        mute = [one for one in by_text if one.text and not any(character.isalnum() for character in one.text)]
        share, fair = sum(one.share for one in mute), sum(one.even for one in mute)
        sentences.append(
            f"Most far attention goes to {', '.join(texts)}. Full stops, line breaks and other tokens without letters "
            f"or digits receive {_percent(share)} of it (even: {_percent(fair)}), which links no contents."
        )
    if first >= _AT_REST:
        sentences.append(f"The window's first token receives {_percent(first)} of it: attention comes to rest there.")
    return sentences


def _number(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= abs(value) < 1000 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if abs(share) >= 0.0995 or share == 0 else f"{100 * share:.2g}%"
