"""The column names that every stage shares."""

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

#: Ends the name of a score's values head by head.
PER_HEAD = "_per_head"

# what scoring and selection add under names of their own
_ADDED = {
    DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE, LONG_DISTANCE_SCORE, KEPT, SELECTION_SCORE,
    SKIP_REASON, ROW_FRACTION,
}  # fmt: skip


def is_added(name: str) -> bool:
    """Says whether scoring or selection adds a column of this name, where a source's own would be in the way."""
    return name in _ADDED or name.endswith((PER_HEAD, STANDARD_ERROR))
