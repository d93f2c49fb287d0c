"""Score long documents by how far back, and how evenly, a language model's first layer attends.

The public names below are imported on first use, so `import longattn_hf` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME_OF = {
    "EchoScorer": "echo",
    "FarAttention": "attention",
    "FirstLayer": "first_layer",
    "LongAttnScorer": "scoring",
    "WindowDocuments": "windows",
    "add_long_distance_score": "selection",
    "cut_windows": "windows",
    "explain": "token_view",
    "far_attention": "attention",
    "longattn_score": "scoring",
    "publish": "publishing",
    "publish_space": "space",
    "select_windows": "selection",
}

__all__ = [
    "EchoScorer",
    "FarAttention",
    "FirstLayer",
    "LongAttnScorer",
    "WindowDocuments",
    "add_long_distance_score",
    "cut_windows",
    "explain",
    "far_attention",
    "longattn_score",
    "publish",
    "publish_space",
    "select_windows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
