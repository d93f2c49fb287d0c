from dataclasses import astuple

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
    assert astuple(WindowCounts()) == (0, 0, 0, 0, 0)
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
    for by in (["source"], []):
        assert count_windows(plain.slice(0, 0), kept[:0], by) == {}
    assert count_windows(plain.drop_columns(["num_tokens"]), kept, []) == {
        (): WindowCounts(windows=6, tokens=0, kept_windows=6, kept_tokens=0, kept_documents=4)
    }


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


@pytest.mark.parametrize(
    ("values", "through", "edges"),
    [
        # three times the cube root of the values' number: eight at least, sixty at most
        ([0, 8], None, np.arange(9)),
        (np.linspace(0, 9, 64), None, np.linspace(0, 9, 13)),
        (np.linspace(0, 9, 1000), None, np.linspace(0, 9, 31)),
        (np.linspace(0, 6, 20_000), None, np.linspace(0, 6, 61)),
        # an edge on the cut, where it is one of the values or lies between them
        ([0, 8], 2.5, np.arange(-0.5, 9)),
        ([0, 8], 0.0, np.arange(9)),
        ([0, 8], 8.0, np.arange(10)),
        ([0, 8], 8.5, np.arange(9)),
        ([0, 8], -0.5, np.arange(9)),
        # equal values: a quarter of them is the width, or a quarter
        ([2, 2, 2], None, [2, 2.5]),
        ([-2, -2], -2.0, [-2, -1.5]),
        ([0, 0], None, [0, 0.25]),
    ],
)
def test_bins_are_as_many_and_stand_where_is_said(values, through, edges):
    np.testing.assert_allclose(bin_edges(np.array(values, dtype=float), through=through), edges, atol=1e-12)
    assert len(bin_edges(np.linspace(0, 9, 1000), most=10)) == 11


def test_the_outer_edges_reach_the_extremes_to_the_last_bit():
    for number in range(200):
        values = np.random.default_rng(number).standard_normal(9)
        edges = bin_edges(values, through=float(np.sort(values)[4]))
        assert edges[0] <= values.min() and edges[-1] >= values.max()
        whole = bin_edges(values)
        assert whole[0] == values.min() and whole[-1] >= values.max()


def test_histograms_and_cells_count_what_is_kept_and_dropped():
    x, y, kept = np.array([0.0, 8.0, 7.5, 0.5]), np.array([80.0, 0.0, 0.0, 79.0]), np.array([True, False, True, True])
    # the highest edge belongs to the last bin
    assert split_histogram(x, kept, np.array([0.0, 4.0, 8.0])) == {
        "edges": [0.0, 4.0, 8.0],
        "kept": [2, 1],
        "dropped": [0, 1],
    }
    cells = split_cells(x, y, kept)
    assert (cells["edges_x"], cells["edges_y"]) == (list(range(9)), list(range(0, 81, 10)))
    # column, row, kept, all
    assert cells["cells"] == [(0, 7, 2, 2), (7, 0, 1, 2)]
