"""What a selection does not pass over in silence: windows without a score, a gate that refuses most, equal scores."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

# a few equal scores are copies of one text; many are a score that says nothing of these windows
_MANY_TIED, _MANY_OUT = 0.05, 0.5
# of a reason, the length of one window, beside the least that is wanted
_OWN_LENGTH = re.compile(r"\(\d+ (\w+), (\d+) are")


def count_reasons(reasons: Iterable[object]) -> dict[str, int]:
    """Counts windows by the reason why they have no score, in the order of the reasons' names.

    A reason that says how long its own window is counts together with those of windows of other lengths.
    """
    return dict(sorted(Counter(_OWN_LENGTH.sub(r"(\2 \1 are", str(reason)) for reason in reasons).items()))


def count_tied(scores: np.ndarray, kept: np.ndarray) -> int:
    """Counts the windows with the lowest score kept, if some of these are not kept; otherwise 0.

    Args:
        scores: Of the windows that could be kept, float `[N]`.
        kept: Which of them are, bool `[N]`.
    """
    if not kept.any():
        return 0
    at_cut = scores == scores[kept].min()
    return 0 if kept[at_cut].all() else int(at_cut.sum())


def caution(
    category: str, windows: int, *, unscored: int, tied: int, refused: Mapping[str, int], score: str
) -> Iterator[str]:
    """Yields a sentence for each thing that a reader should know of how a category was selected.

    Args:
        category: Its name.
        windows: How many there are.
        unscored: How many have no score.
        tied: As `count_tied`.
        refused: How many windows a gate refused, by reason.
        score: What ranked.
    """
    if unscored > _MANY_OUT * windows:
        yield f"{unscored:,} of the {windows:,} windows of {category} have no {score}, so that none of them is kept."
    for reason, count in refused.items():
        if count > _MANY_OUT * windows:
            yield (
                f"The gate refused {count:,} of the {windows:,} windows of {category} ({reason}): it may not know "
                "their language or kind of text."
            )
    if tied > _MANY_TIED * windows:
        yield (
            f"{tied:,} of the {windows:,} windows of {category} have the same {score} at the cut: which of them are "
            "kept, their ids alone decide."
        )
