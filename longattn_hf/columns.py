"""The column names that every stage shares, and the features of the columns the package itself adds."""

from datasets import Features, List, Value

ID = "id"
DOC_ID = "doc_id"
DOC_HASH = "doc_hash"
TEXT = "text"
CATEGORY = "category"
SOURCE = "source"
LICENSE = "license"
INPUT_IDS = "input_ids"
SKIP_REASON = "skip_reason"

DEPENDENCY_STRENGTH = "dependency_strength"
DISTRIBUTION_UNIFORMITY = "distribution_uniformity"
MAP_VARIANCE = "map_variance"
LONG_DISTANCE_SCORE = "long_distance_score"
KEPT = "kept"
#: What several scores together rank by.
SELECTION_SCORE = "selection_score"
#: Ends the name of a score's standard error, a column that sampled rows bring.
STANDARD_ERROR = "_standard_error"
#: The share of a window's rows that its scores were read from, where windows differ in it.
ROW_FRACTION = "row_fraction"

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

#: Ends the name of a score's values head by head.
PER_HEAD = "_per_head"

#: What selection adds: the long-distance score in z-units of the category, and whether the window was kept.
SELECTION_FEATURES = Features({LONG_DISTANCE_SCORE: Value("float64"), KEPT: Value("bool")})


def is_added(name: str) -> bool:
    """Says whether scoring or selection adds a column of this name, where a source's own would be in the way."""
    names = {*SCORE_FEATURES, *SELECTION_FEATURES, SELECTION_SCORE, SKIP_REASON, ROW_FRACTION}
    return name in names or name.endswith((PER_HEAD, STANDARD_ERROR))
