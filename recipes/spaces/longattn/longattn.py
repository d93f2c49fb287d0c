"""LongAttn as a measurement of the `evaluate` library: texts in, dependency scores and their summary out."""

from typing import Any

import evaluate
import numpy as np
import pyarrow as pa
from datasets import Features, Value

from longattn_hf import LongAttnScorer, longattn_score
from longattn_hf.columns import LONG_DISTANCE_SCORE
from longattn_hf.columns.features import SCORE_FEATURES
from longattn_hf.selection.standardisation import long_distance_scores

_DESCRIPTION = (
    "How far back, and how evenly, the first layer of a language model attends in each text (LongAttn): the share of "
    "attention that reaches at least a quarter of the text back, the evenness of it, and both combined."
)
_INPUTS = """
Args:
    data (list of str): The texts, whole; long ones of similar length compare best.
    model (str): A Hub id, a local directory or a GGUF file; the package's default model if None.
    alpha (float): The weight of the distribution uniformity in the combined score.
    **settings: Other fields of `longattn_hf.LongAttnScorer`, such as `min_distance`, `rope_theta` or `device`.

Returns:
    dependency_strength: One number a text, in [0, 1].
    distribution_uniformity: One number a text, at most 0.
    map_variance: One number a text, at least 0.
    long_distance_score: One number a text, in z-units of the texts given, so it compares them with one another only.
    summary: Of each of these the mean, standard deviation, minimum and maximum.

Examples:
    >>> measurement = evaluate.load("recipes/spaces/longattn", module_type="measurement")
    >>> measurement.compute(data=texts, model="HuggingFaceTB/SmolLM2-135M")["summary"]
"""
_CITATION = """\
@inproceedings{wu-etal-2025-longattn,
    title = "{L}ong{A}ttn: Selecting Long-context Training Data via Token-level Attention",
    author = "Wu, Longyun and Zhu, Dawei and Zhao, Guangxiang and Yu, Zhuocheng and Ran, Junfeng and Wong, Xiangyu and
      Sun, Lin and Li, Sujian",
    booktitle = "Findings of the Association for Computational Linguistics: ACL 2025",
    year = "2025",
    pages = "19367--19380",
}
"""


class LongAttn(evaluate.Measurement):
    """Scores texts with `longattn_hf.LongAttnScorer`."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=Features({"data": Value("string")}),
            reference_urls=["https://arxiv.org/abs/2502.16860"],
        )

    def _compute(
        self, data: list[str], model: str | None = None, alpha: float = 0.5, **settings: Any
    ) -> dict[str, Any]:
        scorer = LongAttnScorer(model or longattn_score.model, **settings)
        results = scorer({scorer.text_column: data})
        table = pa.table({name: results[name] for name in SCORE_FEATURES})
        results[LONG_DISTANCE_SCORE] = long_distance_scores(table, alpha=alpha, by=None).tolist()
        results["summary"] = {
            name: _summarise(np.array(results[name], dtype=np.float64))
            for name in (*SCORE_FEATURES, LONG_DISTANCE_SCORE)
        }
        return results


def _summarise(scores: np.ndarray) -> dict[str, float]:
    # texts skipped on request have no score
    known = scores[~np.isnan(scores)]
    return {name: float(getattr(known, name)()) for name in ("mean", "std", "min", "max")}
