from longattn_hf.columns import is_added
from longattn_hf.columns.features import SCORE_FEATURES, SELECTION_FEATURES, WINDOW_FEATURES


def test_every_column_of_scoring_and_selection_counts_as_added_and_none_of_a_windows_own():
    assert all(map(is_added, [*SCORE_FEATURES, *SELECTION_FEATURES, "loss_gain_per_head", "echo_standard_error"]))
    assert not any(map(is_added, [*WINDOW_FEATURES, "source", "license", "url"]))
