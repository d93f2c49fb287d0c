"""Needle retrieval as a metric of the `evaluate` library: how many of the values asked for stand in an answer."""

import math
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value

_DESCRIPTION = (
    "The share of the values hidden in a long text ('needles') that a model's answer holds, as RULER counts it: each "
    "value, compared without regard to case, stands in the answer or not."
)
_INPUTS = """
Args:
    predictions (list of str): The model's answers.
    references (list of list of str): Of each answer, the values asked for.

Returns:
    recall: The mean over the answers of the share of values found, in [0, 1].
    recall_interval: Its 95% interval (Wilson's score interval; for several values an answer somewhat too wide).
    all_found: The share of answers that hold all values asked for.
    num_answers: How many answers there were.

Examples:
    >>> metric = evaluate.load("recipes/spaces/needle_retrieval")
    >>> metric.compute(predictions=["It is 4711."], references=[["4711", "0815"]])["recall"]
    0.5
"""
_CITATION = """\
@inproceedings{hsieh2024ruler,
    title = "{RULER}: What's the Real Context Size of Your Long-Context Language Models?",
    author = "Hsieh, Cheng-Ping and Sun, Simeng and Kriman, Samuel and Acharya, Shantanu and Rekesh, Dima and Jia, Fei
      and Zhang, Yang and Ginsburg, Boris",
    booktitle = "First Conference on Language Modeling",
    year = "2024",
}
"""
# the normal distribution's 97.5th percentile
_Z = 1.959963984540054


class NeedleRetrieval(evaluate.Metric):
    """RULER's string matching, with an interval."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=Features({"predictions": Value("string"), "references": List(Value("string"))}),
            reference_urls=["https://arxiv.org/abs/2404.06654"],
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        if not all(references):
            raise ValueError(
                f"Answer {[bool(r) for r in references].index(False)} has no reference value to look for."
            )
        found = [
            np.mean([value.lower() in answer.lower() for value in values])
            for answer, values in zip(predictions, references, strict=True)
        ]
        recall = float(np.mean(found))
        return {
            "recall": recall,
            "recall_interval": wilson_interval(recall, len(found)),
            "all_found": float(np.mean([share == 1 for share in found])),
            "num_answers": len(found),
        }


def wilson_interval(share: float, count: int) -> list[float]:
    """Returns Wilson's 95% score interval of a share of `count` trials; it is honest at 0 and 1 too."""
    centre = share + _Z**2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    low, high = ((centre + sign * half) / (1 + _Z**2 / count) for sign in (-1, 1))
    # rounding may step over the bounds
    return [max(low, 0.0), min(high, 1.0)]
