"""Other measures to select long documents by, each a `datasets.map` callable with its citation.

Every one adds a float column named after it, larger being better, and takes the same rows as `LongAttnScorer`.
"""

from longattn_hf.baselines.base import Measure
from longattn_hf.baselines.ladm import Ladm
from longattn_hf.baselines.loss_gain import LossGain
from longattn_hf.baselines.prolong import ProLong
from longattn_hf.baselines.simple import GzipRatio, Length, RandomScore
from longattn_hf.baselines.token_measure import TokenMeasure

__all__ = ["GzipRatio", "Ladm", "Length", "LossGain", "Measure", "ProLong", "RandomScore", "TokenMeasure"]
