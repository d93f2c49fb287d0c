"""Score long documents by how far back, and how evenly, a language model's first layer attends.

The public names below are imported on first use, so `import longattn_hf` loads neither torch nor transformers.
"""

from longattn_hf.lazy_names import lazy_names

__version__ = "0.1.0"

_HOME_OF = {
    "EchoScorer": "scoring.echo",
    "FarAttention": "attention",
    "FirstLayer": "model.first_layer",
    "LongAttnScorer": "scoring.longattn",
    "WindowDocuments": "windows",
    "add_long_distance_score": "selection.cut",
    "cut_windows": "windows",
    "explain": "explore.token_view",
    "far_attention": "attention",
    "longattn_score": "scoring.longattn",
    "publish": "hub.publishing",
    "publish_space": "hub.space",
    "select_windows": "selection.cut",
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

__getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
