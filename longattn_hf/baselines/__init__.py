"""Other scores to select long documents by, each a `datasets.map` callable with its citation.

Every one adds a float column named after it, larger being better, and takes the same rows as `LongAttnScorer`. The
names below are imported on first use, since only some need a language model.
"""

from longattn_hf.lazy_names import lazy_names
from longattn_hf.scoring.base import Scorer, TextScorer

_HOME_OF = {
    "DeepAttention": "deep_attention",
    "GzipRatio": "simple",
    "Ladm": "ladm",
    "Length": "simple",
    "LossGain": "loss_gain",
    "ProLong": "prolong",
    "RandomScore": "simple",
    "TokenScorer": "token_scorer",
}

__all__ = [
    "DeepAttention",
    "GzipRatio",
    "Ladm",
    "Length",
    "LossGain",
    "ProLong",
    "RandomScore",
    "Scorer",
    "TextScorer",
    "TokenScorer",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
