from dataclasses import astuple

import numpy as np
import pyarrow as pa
import pytest

from longattn_hf.selection.documents import number_documents
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
        # two sources may number their documents alike
        ("a",): WindowCounts(windows=2, tokens=30, kept_windows=2, kept_tokens=30, kept_documents=2),
        ("b",): WindowCounts(windows=3, tokens=120, kept_windows=2, kept_tokens=90, kept_documents=2),
        (None,): WindowCounts(windows=1, tokens=60),
    }
    assert astuple(WindowCounts()) == (0, 0, 0, 0, 0)
    whole = WindowCounts(windows=6, tokens=210, kept_windows=4, kept_tokens=120, kept_documents=4)
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
        # that nobody named the documents does not make them one
        (None,): WindowCounts(windows=6, tokens=210, kept_windows=6, kept_tokens=210, kept_documents=6)
    }
    half = plain.set_column(2, "doc_id", pa.array(["d", "d", None, "f", None, None]))
    assert count_windows(half, np.array([True] * 5 + [False]), [])[()].kept_documents == 5
    for by in (["source"], []):
        assert count_windows(plain.slice(0, 0), kept[:0], by) == {}
    assert count_windows(plain.drop_columns(["num_tokens"]), kept, []) == {
        (): WindowCounts(windows=6, tokens=0, kept_windows=6, kept_tokens=0, kept_documents=6)
    }


def test_documents_are_told_apart_by_their_hashes_where_sources_give_the_same_names():
    table = pa.table({"doc_id": ["0", "1", "0", "0", None, None, None], "doc_hash": list("abcaxx") + [None]})
    assert number_documents(table).tolist()[:4] == [0, 1, 2, 0]
    named_by_hash, unnamed = number_documents(table)[4:6], number_documents(table)[6]
    assert named_by_hash[0] == named_by_hash[1] and unnamed not in number_documents(table)[:6]
    assert number_documents(table.select(["doc_hash"])).tolist()[:6] == [0, 1, 2, 0, 3, 3]
    assert number_documents(pa.table({"source": ["s"]})) is None
    counts = count_windows(table, np.ones(7, dtype=bool), [])[()]
    assert counts.kept_documents == 5


def test_bins_cover_all_values_and_their_edges_are_multiples_of_one_rounded_width():
    generator = np.random.default_rng(0)
    samples = (generator.normal(size=500), np.array([2.0]), np.zeros(3), np.array([-1e-9, -3e-9]), np.arange(5.0))
    outlier = np.append(generator.normal(size=400), 1e6)
    for values in (*samples, outlier, np.array([5e-324]), np.array([1, 1 + 1e-15]), generator.normal(size=9) * 1e-12):
        edges = bin_edges(values, most=20)
        assert 2 <= len(edges) <= 23 and (np.diff(edges) > 0).all()
        assert edges[0] <= values.min() and edges[-1] >= values.max()
        width = edges[1] - edges[0]
        assert f"{width:.0e}"[0] in "125" or f"{width:.1e}"[:3] == "2.5"
        np.testing.assert_allclose(edges / width, np.round(edges / width), atol=1e-6)
        kept = values >= np.median(values)
        counts = split_histogram(values, kept, edges)
        assert (sum(counts["kept"]), sum(counts["dropped"])) == (kept.sum(), (~kept).sum())
        cells = split_cells(values, -values, kept, (edges, bin_edges(-values)))["cells"]
        assert sum(cell[3] for cell in cells) == len(values) and sum(cell[2] for cell in cells) == kept.sum()


@pytest.mark.parametrize(
    ("groups", "edges"),
    [
        # 0 to 100, 101 values: 2 * 50 / 101^(1/3) is 21.5, and eight bins are 12.5 wide: 10
        ([np.arange(101.0)], np.arange(0, 101, 10)),
        # 0 to 1 in 9,261 values: 2 * 0.5 / 21 is 0.048
        ([np.linspace(0, 1, 9261)], np.arange(21) * 5 / 100),
        # 0 to 1 in a million would be 0.01, and sixty bins are 0.0167 wide: 0.02
        ([np.linspace(0, 1, 1_000_000)], np.arange(51) / 50),
        # half of them equal: Sturges's 8 / 3 for four values, and eight bins are 1 wide
        ([np.array([0.0, 0, 0, 8])], np.arange(9)),
        # one scale for two: the width is that of either, the range that of both; an empty one has no say
        ([np.arange(101.0), np.arange(101.0) + 95, np.empty(0)], np.arange(0, 201, 10)),
        # tenths are what their decimals say
        ([np.array([0.1, 0.9])], np.arange(1, 10) / 10),
        # equal values: a quarter of them is the width, or a quarter
        ([np.full(3, 2.0)], [2, 2.5]),
        ([np.full(2, -2.0)], [-2, -1.5]),
        ([np.zeros(2)], [0, 0.25]),
        ([np.full(5, 0.7)], [0.6, 0.8]),
    ],
)
def test_bins_are_as_wide_and_stand_where_is_said(groups, edges):
    assert bin_edges(*groups).tolist() == list(edges)


def test_histograms_and_cells_count_what_is_kept_and_dropped():
    x, y, kept = np.array([0.0, 8.0, 7.5, 0.5]), np.array([80.0, 0.0, 0.0, 79.0]), np.array([True, False, True, True])
    # the highest edge belongs to the last bin
    assert split_histogram(x, kept, np.array([0.0, 4.0, 8.0])) == {
        "edges": [0.0, 4.0, 8.0],
        "kept": [2, 1],
        "dropped": [0, 1],
    }
    cells = split_cells(x, y, kept, (np.arange(9.0), np.arange(0.0, 81, 10)))
    assert (cells["edges_x"], cells["edges_y"]) == (list(range(9)), list(range(0, 81, 10)))
    # column, row, kept, all
    assert cells["cells"] == [(0, 7, 2, 2), (7, 0, 1, 2)]
