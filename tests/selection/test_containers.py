"""Selection from all that rows lie in: formats of datasets, splits, streams, data frames, tables of Arrow."""

import math

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from longattn_hf import ScoreStatistics, add_long_distance_score, select_table, select_windows
from tests.selection.test_selection import scored_windows

FORMATS = ("numpy", "torch", "arrow", "pandas", "polars")
LIMITS = (
    {"fraction": 0.3},
    {"token_budget": {"arxiv": 500, "book": 1200}},
    {"total_token_budget": 1650},
    {"threshold": 0.4, "gate": {"map_variance": 3e-7}},
    {"fraction": 0.4, "refuse_overlap": True, "score": "map_variance"},
    {"fraction": 0.5, "score": {"map_variance": 1.0, "long_distance_score": 2.0}, "combine": "rank"},
    {"fraction": 0.5, "temperature": 0.5, "seed": 3},
)


@pytest.fixture(scope="module")
def raw():
    """Windows of which one has no scores, with texts, in an order that is not that of their names."""
    rows = scored_windows(40).shuffle(seed=1).to_dict()
    for name in ("dependency_strength", "distribution_uniformity", "map_variance"):
        rows[name][7] = None
    return Dataset.from_dict(rows | {"text": [f"text {n}" for n in range(40)]})


@pytest.fixture(scope="module")
def scored(raw):
    return add_long_distance_score(raw)


def in_format(rows, name):
    if name == "polars":
        pytest.importorskip("polars")
    return rows.with_format(name)


class Stream:
    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def with_categories(table):
    """A data frame whose texts are of pandas' categorical type."""
    return table.to_pandas().astype({"category": "category", "id": "category"})


def categorical_polars(table):
    polars = pytest.importorskip("polars")
    return polars.DataFrame(table).with_columns(polars.col("category").cast(polars.Categorical))


TABLES = {
    "table": lambda table: table,
    "chunks": lambda table: pa.concat_tables([table.slice(0, 11), table.slice(11)]),
    "batch": lambda table: table.combine_chunks().to_batches()[0],
    "pandas": lambda table: table.to_pandas(),
    "pandas categories": with_categories,
    "polars": lambda table: pytest.importorskip("polars").DataFrame(table),
    "polars categories": categorical_polars,
    "stream": Stream,
    "reader": lambda table: table.to_reader(max_chunksize=7),
}


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_any_kind_keeps_what_its_dataset_keeps(scored, kind, limits):
    table = scored.with_format("arrow")[:]
    expected = select_windows(scored, **limits)
    assert 0 < len(expected) < 40
    kept = select_table(TABLES[kind](table), **limits)
    assert isinstance(kept, pa.Table) and kept.column_names == scored.column_names
    assert kept.to_pylist() == expected.to_list()


@pytest.mark.parametrize("kind", ["pandas", "polars", "table"])
def test_a_data_frame_is_scored_and_selected_as_one(raw, kind):
    frame = TABLES[kind](raw.with_format("arrow")[:])
    scored = add_long_distance_score(frame)
    kept = select_windows(scored, fraction=0.3)
    assert type(kept) is type(scored) is type(frame)
    expected = select_windows(add_long_distance_score(raw), fraction=0.3)
    assert [*kept["id"]] == expected["id"][:] or kept["id"].to_pylist() == expected["id"][:]
    missing = scored["long_distance_score"]
    assert (
        missing.null_count if kind == "table" else missing.isna().sum() if kind == "pandas" else missing.null_count()
    ) == 1
    # replaced, not added twice
    assert add_long_distance_score(scored, alpha=0.0).shape == scored.shape


def test_rows_of_a_data_frame_keep_their_index(scored):
    frame = scored.to_pandas().set_index("id", drop=False)
    kept = select_windows(frame, fraction=0.3)
    assert kept.index.tolist() == kept["id"].tolist() == select_windows(scored, fraction=0.3)["id"][:]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_changes_nothing_and_stays(raw, name):
    rows = in_format(raw, name)
    assert rows.format == in_format(raw, name).format
    again = add_long_distance_score(rows)
    kept = select_windows(again, fraction=0.3)
    assert kept.format["type"] == name
    expected = select_windows(add_long_distance_score(raw), fraction=0.3)
    assert kept.with_format(None).to_dict() == expected.to_dict()
    # nor does one that shows few columns
    few = raw.with_format(name, columns=["start_token"])
    assert select_windows(add_long_distance_score(few), fraction=0.3).with_format(None).to_dict() == expected.to_dict()


def test_splits_are_one_corpus(raw):
    splits = DatasetDict(train=raw.select(range(25)), test=raw.select(range(25, 40)))
    scored = add_long_distance_score(splits)
    whole = add_long_distance_score(raw)
    assert [*scored["train"]["long_distance_score"], *scored["test"]["long_distance_score"]] == [
        *whole["long_distance_score"]
    ]
    for limits in LIMITS:
        if "temperature" in limits:
            continue
        kept = select_windows(scored, **limits)
        expected = select_windows(whole, **limits)
        assert isinstance(kept, DatasetDict) and {*kept} == {"train", "test"}
        assert kept["train"].to_list() + kept["test"].to_list() == expected.to_list()
    assert ScoreStatistics.of(splits) == ScoreStatistics.of(raw)
    with pytest.raises(ValueError, match="DatasetDict has no splits"):
        select_windows(DatasetDict(), fraction=0.5)
    lacking = DatasetDict(train=scored["train"], test=scored["test"].remove_columns("long_distance_score"))
    with pytest.raises(ValueError, match="No column 'long_distance_score'"):
        select_windows(lacking, fraction=0.5)


def streams_of(rows):
    yield "rows of a dataset", rows.to_iterable_dataset(num_shards=3)
    yield "a generator that knows no types", IterableDataset.from_generator(lambda: iter(rows.to_list()))


@pytest.mark.parametrize("name", [None, *FORMATS])
def test_a_stream_is_selected_on_the_scale_of_a_corpus_before_it(raw, name):
    before = scored_windows(60, seed=4)
    statistics = ScoreStatistics.of(before)
    gate = {"map_variance": 3e-7}
    expected = select_windows(add_long_distance_score(raw, statistics=statistics), threshold=0.2, gate=gate)
    assert 0 < len(expected) < 39
    for kind, stream in streams_of(raw):
        if name is not None and stream.features is None:
            # `datasets` itself joins no tables of rows of which one has null
            continue
        stream = in_format(stream, name)
        kept = select_windows(stream, threshold=0.2, gate=gate, statistics=statistics)
        assert isinstance(kept, IterableDataset)
        assert [*kept.with_format(None)] == expected.to_list(), kind
        assert (kept.features is None) == (stream.features is None)
        if name is not None:
            assert type(next(iter(kept))) is type(next(iter(stream)))
        by_hand = add_long_distance_score(stream, statistics=statistics, alpha=0.5)
        assert [*select_windows(by_hand, threshold=0.2, gate=gate).with_format(None)] == expected.to_list(), kind


def test_statistics_of_a_stream_are_those_of_its_rows(raw):
    for _, stream in streams_of(raw):
        assert ScoreStatistics.of(stream) == ScoreStatistics.of(raw)
    with pytest.raises(ValueError, match="No column 'dependency_strength'"):
        ScoreStatistics.of(IterableDataset.from_generator(lambda: iter(())))


def test_streams_by_split_and_labels_are_selected_by_name(raw):
    labelled = raw.cast_column("category", ClassLabel(names=["arxiv", "book"]))
    statistics = ScoreStatistics.of(labelled)
    assert statistics == ScoreStatistics.of(raw)
    limits = {"threshold": {"arxiv": math.inf, "book": -math.inf}, "statistics": statistics}
    streams = IterableDatasetDict(a=labelled.to_iterable_dataset(), b=labelled.to_iterable_dataset())
    kept = select_windows(streams, **limits)
    assert isinstance(kept, IterableDatasetDict)
    books = {row["id"] for row in raw if row["category"] == "book" and row["map_variance"] is not None}
    assert {row["id"] for row in kept["a"]} == {row["id"] for row in kept["b"]} == books


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"fraction": 0.5}, "never seen whole, which fraction would need"),
        ({"token_budget": 5}, "which token_budget would need"),
        ({"total_token_budget": 5}, "which total_token_budget would need: give a threshold= of one column"),
        ({"threshold": 0, "refuse_overlap": True}, "which refuse_overlap would need"),
        ({"threshold": 0, "score": {"map_variance": 1.0}}, "which a weighted score would need"),
        ({"threshold": 0}, "No column 'long_distance_score'; the stream's columns are .* with statistics="),
    ],
)
def test_what_a_stream_cannot_tell_is_refused_before_it_is_read(raw, limits, message):
    with pytest.raises(ValueError, match=message):
        select_windows(raw.to_iterable_dataset(), **limits)


def test_a_stream_without_a_scale_and_what_holds_no_rows_are_refused(raw):
    with pytest.raises(ValueError, match=r"give statistics= .* ScoreStatistics.of\(stream\)"):
        add_long_distance_score(raw.to_iterable_dataset())
    for rows in ([{"id": "a"}], {"id": ["a"]}, "rows"):
        with pytest.raises(ValueError, match=f"Rows come as {type(rows).__name__}"):
            select_windows(rows, fraction=0.5)


def test_a_score_of_any_name_selects_from_a_stream_by_its_own_values(raw):
    rows = raw.add_column("gain", np.arange(40))
    kept = select_windows(rows.to_iterable_dataset(), threshold=30, score="gain", by=None)
    assert [row["gain"] for row in kept] == [*range(31, 40)]


def test_a_nan_in_a_stream_is_an_error_as_elsewhere():
    rows = [{"id": "a", "category": "x", "gain": 1.0}, {"id": "b", "category": "x", "gain": math.nan}]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    with pytest.raises(ValueError, match="Column 'gain' holds NaN"):
        [*select_windows(stream, threshold=0, score="gain")]
