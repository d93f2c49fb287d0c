"""Other measures to select long documents by, each a `datasets.map` callable with its citation.

Every one adds a float column named after it, larger being better, and takes the same rows as `LongAttnScorer`. The
names below are imported on first use, since only some need a language model.
"""

from importlib import import_module
from typing import Any

_HOME_OF = {
    "DeepAttention": "deep_attention",
    "GzipRatio": "simple",
    "Ladm": "ladm",
    "Length": "simple",
    "LossGain": "loss_gain",
    "Measure": "base",
    "ProLong": "prolong",
    "RandomScore": "simple",
    "TokenMeasure": "token_measure",
}

__all__ = [
    "DeepAttention",
    "GzipRatio",
    "Ladm",
    "Length",
    "LossGain",
    "Measure",
    "ProLong",
    "RandomScore",
    "TokenMeasure",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
