"""Score long documents by how far back, and how evenly, a language model's first layer attends.

The public names below are imported on first use, so `import longattn_hf` loads neither torch nor transformers; type
checkers see the same names in the branch of their own.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME_OF = {
    "EchoScorer": "scoring.echo",
    "FarAttention": "attention.api",
    "FarGainScorer": "baselines.far_gain",
    "FirstLayer": "model.first_layer",
    "LongAttnScorer": "scoring.longattn",
    "ScoreStatistics": "selection.standardisation",
    "WindowDocuments": "windows",
    "add_long_distance_score": "selection.select",
    "cut_windows": "windows",
    "explain": "explore.token_view",
    "far_attention": "attention.api",
    "longattn_score": "scoring.longattn",
    "on_arrow": "rows",
    "publish": "hub.publishing",
    "publish_space": "hub.space",
    "select_table": "selection.select",
    "select_windows": "selection.select",
}

if TYPE_CHECKING:
    from longattn_hf.attention.api import FarAttention as FarAttention
    from longattn_hf.attention.api import far_attention as far_attention
    from longattn_hf.baselines.far_gain import FarGainScorer as FarGainScorer
    from longattn_hf.explore.token_view import explain as explain
    from longattn_hf.hub.publishing import publish as publish
    from longattn_hf.hub.space import publish_space as publish_space
    from longattn_hf.model.first_layer import FirstLayer as FirstLayer
    from longattn_hf.rows import on_arrow as on_arrow
    from longattn_hf.scoring.echo import EchoScorer as EchoScorer
    from longattn_hf.scoring.longattn import LongAttnScorer as LongAttnScorer
    from longattn_hf.scoring.longattn import longattn_score as longattn_score
    from longattn_hf.selection.select import add_long_distance_score as add_long_distance_score
    from longattn_hf.selection.select import select_table as select_table
    from longattn_hf.selection.select import select_windows as select_windows
    from longattn_hf.selection.standardisation import ScoreStatistics as ScoreStatistics
    from longattn_hf.windows import WindowDocuments as WindowDocuments
    from longattn_hf.windows import cut_windows as cut_windows
else:
    from longattn_hf.lazy_names import lazy_names

    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)

__all__ = [*_HOME_OF]
