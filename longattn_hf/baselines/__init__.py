"""Other scores to select long documents by, each a `datasets.map` callable with its citation.

Every one adds a float column named after it, larger being better, and takes the same rows as `LongAttnScorer`. The
names below are imported on first use, since only some need a language model.
"""

from typing import TYPE_CHECKING

_HOME_OF = {
    "CompressionGainScorer": "compression_gain",
    "DeepAttention": "deep_attention",
    "DeepFarAttention": "deep_attention",
    "FarGainScorer": "far_gain",
    "GzipRatio": "simple",
    "KindScorer": "far_gain",
    "Ladm": "ladm",
    "Length": "simple",
    "LossGain": "loss_gain",
    "ProLong": "prolong",
    "RandomScore": "simple",
    "TokenScorer": "token_scorer",
    "WordGainScorer": "word_gain",
}

if TYPE_CHECKING:
    from longattn_hf.baselines.compression_gain import CompressionGainScorer as CompressionGainScorer
    from longattn_hf.baselines.deep_attention import DeepAttention as DeepAttention
    from longattn_hf.baselines.deep_attention import DeepFarAttention as DeepFarAttention
    from longattn_hf.baselines.far_gain import FarGainScorer as FarGainScorer
    from longattn_hf.baselines.far_gain import KindScorer as KindScorer
    from longattn_hf.baselines.ladm import Ladm as Ladm
    from longattn_hf.baselines.loss_gain import LossGain as LossGain
    from longattn_hf.baselines.prolong import ProLong as ProLong
    from longattn_hf.baselines.simple import GzipRatio as GzipRatio
    from longattn_hf.baselines.simple import Length as Length
    from longattn_hf.baselines.simple import RandomScore as RandomScore
    from longattn_hf.baselines.token_scorer import TokenScorer as TokenScorer
    from longattn_hf.baselines.word_gain import WordGainScorer as WordGainScorer
else:
    from longattn_hf.lazy_names import lazy_names

    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)

__all__ = [*_HOME_OF]
