import numpy as np
import pyarrow as pa
import pytest

from longattn_hf.selection.summary import WindowCounts, bin_edges, count_windows, split_cells, split_histogram


def windows():
    return pa.table(
        {
            "category": ["a", "a", "b", "b", "b", None],
            "source": ["x", "y", "x", "x", None, "x"],
            "doc_id": ["d", "d", "e", "f", "f", "g"],
            "num_tokens": [10, 20, 30, 40, 50, 60],
        }
    )


def test_windows_tokens_and_documents_are_counted_by_group():
    kept = np.array([True, True, False, True, True, False])
    assert count_windows(windows(), kept, ["category"]) == {
        ("a",): WindowCounts(windows=2, tokens=30, kept_windows=2, kept_tokens=30, kept_documents=1),
        ("b",): WindowCounts(windows=3, tokens=120, kept_windows=2, kept_tokens=90, kept_documents=1),
        (None,): WindowCounts(windows=1, tokens=60),
    }
    whole = WindowCounts(windows=6, tokens=210, kept_windows=4, kept_tokens=120, kept_documents=2)
    assert count_windows(windows(), kept, []) == {(): whole}
    assert count_windows(windows(), pa.chunked_array([kept]), ["category", "source"])["b", "x"] == WindowCounts(
        windows=2, tokens=70, kept_windows=1, kept_tokens=40, kept_documents=1
    )


def test_dictionary_columns_and_missing_ones_count_alike():
    plain, kept = windows(), np.ones(6, dtype=bool)
    encoded = pa.table(
        {
            n: c.combine_chunks().dictionary_encode() if pa.types.is_string(c.type) else c
            for n, c in zip(plain.column_names, plain.columns, strict=True)
        }
    )
    assert count_windows(encoded, kept, ["source"]) == count_windows(plain, kept, ["source"])
    assert count_windows(plain.drop_columns(["source", "doc_id"]), kept, ["source"]) == {
        # all of a document that has no name
        (None,): WindowCounts(windows=6, tokens=210, kept_windows=6, kept_tokens=210, kept_documents=1)
    }
    assert count_windows(plain.slice(0, 0), kept[:0], ["source"]) == {}


def test_bins_cover_all_values_and_one_edge_lies_on_the_cut():
    generator = np.random.default_rng(0)
    for values in (generator.normal(size=500), np.array([2.0]), np.zeros(3), np.array([-1e-9, -3e-9]), np.arange(5.0)):
        for through in (None, float(np.sort(values)[len(values) // 2]), 99.0):
            edges = bin_edges(values, through=through, most=20)
            assert 2 <= len(edges) <= 23 and (np.diff(edges) > 0).all()
            kept = values >= (through if through is not None else values.min())
            counts = split_histogram(values, kept, edges)
            assert (sum(counts["kept"]), sum(counts["dropped"])) == (kept.sum(), (~kept).sum())
            if through is not None and values.min() <= through <= values.max() and np.ptp(values):
                # no bin straddles the cut, but for the last one, which holds both its edges
                assert not any(k and d for k, d in zip(counts["kept"], counts["dropped"], strict=True))
            cells = split_cells(values, -values, kept)["cells"]
            assert sum(cell[3] for cell in cells) == len(values) and sum(cell[2] for cell in cells) == kept.sum()


@pytest.mark.parametrize("count", [1, 2, 30, 3000])
@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_the_bins_hold_every_window_and_one_edge_is_the_cut(count, place):
    values = np.random.default_rng(count).standard_normal(count) * 1e-3
    cut = np.sort(values)[round(place * (count - 1))]
    edges = bin_edges(values, through=cut)
    below, above = np.histogram(values[values < cut], edges)[0], np.histogram(values[values >= cut], edges)[0]
    assert (below + above).sum() == count
    at = np.flatnonzero(edges == cut)
    assert len(at) == 1
    assert not above[: at[0]].any() and not below[at[0] :].any()
    assert len(edges) <= 64


def test_equal_scores_fall_into_one_bin():
    edges = bin_edges(np.full(5, 0.7), through=0.7)
    assert np.histogram(np.full(5, 0.7), edges)[0].tolist() == [5]
