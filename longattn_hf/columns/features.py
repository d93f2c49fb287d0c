"""The features of the columns that the package itself adds."""

from datasets import Features, List, Value

from longattn_hf.columns import (
    DEPENDENCY_STRENGTH,
    DISTRIBUTION_UNIFORMITY,
    DOC_HASH,
    DOC_ID,
    ID,
    INPUT_IDS,
    KEPT,
    LONG_DISTANCE_SCORE,
    MAP_VARIANCE,
    TEXT,
)

#: One row a window. `doc_hash` is of the document's text: a source may give several documents one id. Positions count
#: from 0; `end_char` is exclusive; `overlap_tokens` counts the tokens that a window shares with windows of the same
#: document taken before it.
WINDOW_FEATURES = Features(
    {
        ID: Value("string"),
        DOC_ID: Value("string"),
        DOC_HASH: Value("string"),
        "window_index": Value("int64"),
        "num_windows": Value("int64"),
        "start_char": Value("int64"),
        "end_char": Value("int64"),
        "start_token": Value("int64"),
        "num_tokens": Value("int64"),
        "overlap_tokens": Value("int64"),
        TEXT: Value("string"),
        INPUT_IDS: List(Value("int32")),
    }
)

#: What the scorer adds to a window, as means over the layer's heads: dependency strength in [0, 1], distribution
#: uniformity at most 0, and the variance of the whole masked map at least 0.
SCORE_FEATURES = Features(
    {
        DEPENDENCY_STRENGTH: Value("float64"),
        DISTRIBUTION_UNIFORMITY: Value("float64"),
        MAP_VARIANCE: Value("float64"),
    }
)

#: What selection adds: the long-distance score in z-units of the category, and whether the window was kept.
SELECTION_FEATURES = Features({LONG_DISTANCE_SCORE: Value("float64"), KEPT: Value("bool")})
