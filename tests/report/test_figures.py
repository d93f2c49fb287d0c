import re
import struct
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager

from longattn_hf.method import uniform_dependency_strength
from longattn_hf.pages.page import read_asset
from longattn_hf.report import figure_style
from longattn_hf.report import figures as plots
from longattn_hf.report.facts import Report
from longattn_hf.report.figures import draw_figures
from tests.support.reports import example_report

NAMES = [f"figures/{name}.png" for name in ("long_distance_scores", "strength_and_uniformity", "kept_by_source")]


def scored(sizes: dict[str, int], *, sources: tuple[str | None, ...] = ("numpy==2.4.6", "org/data"), seed: int = 0):
    """A table of scored windows, the best fifth of each category kept, and a report that goes with it."""
    random = np.random.default_rng(seed)
    parts, categories = [], {}
    for name, count in sizes.items():
        score = random.normal(size=count)
        kept = np.zeros(count, dtype=bool)
        kept[np.argsort(-score)[: -(-count // 5)]] = True
        parts.append(
            pa.table(
                {
                    "category": pa.array([name] * count, pa.string()),
                    "source": pa.array([sources[at % len(sources)] for at in range(count)], pa.string()),
                    "dependency_strength": random.uniform(0.2, 0.5, count),
                    "distribution_uniformity": -random.lognormal(-14, 0.5, count),
                    "long_distance_score": score,
                    "kept": kept,
                }
            )
        )
        categories[name] = float(score[kept].min()) if count else None
    return pa.concat_tables(parts), report_of(categories)


def report_of(cuts: dict[str, float | None]) -> Report:
    report = example_report()
    facts = report["categories"]["code"]
    return Report.from_dict(report | {"categories": {name: facts | {"cut": cut} for name, cut in cuts.items()}})


def read(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "sizes",
    [
        {"code": 1},
        {"code": 0},
        {"code": 40, "empty": 0, "prose": 3},
        {f"category {at}": 12 + at for at in range(30)},
        {"large": 5000, "small": 10},
    ],
    ids=["one window", "none", "an empty category", "thirty categories", "large and small"],
)
def test_every_size_of_corpus_gives_three_whole_pictures_and_no_warning(tmp_path, sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_figures(*scored(sizes), tmp_path) == NAMES
    pictures = read(tmp_path)
    assert sorted(pictures) == sorted(NAMES)
    for picture in pictures.values():
        assert picture.startswith(b"\x89PNG") and picture.endswith(b"IEND\xaeB`\x82")
        width, height = struct.unpack(">II", picture[16:24])
        assert 600 <= width <= 1700 and 250 <= height <= 1300


def test_many_windows_take_seconds_and_a_small_picture(tmp_path):
    draw_figures(*scored({"code": 200_000}), tmp_path)
    assert max(map(len, read(tmp_path).values())) < 500_000


def test_the_bytes_do_not_depend_on_the_run_or_on_a_users_settings(tmp_path):
    table, report = scored({"code": 30, "prose": 5000})
    draw_figures(table, report, tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30}):
        # a picture replaces its predecessor and leaves no other file
        (tmp_path / "second" / "figures").mkdir(parents=True)
        (tmp_path / "second" / NAMES[0]).write_bytes(b"before")
        draw_figures(table, report, tmp_path / "second")
        assert matplotlib.rcParams["font.size"] == 20
    assert read(tmp_path / "first") == read(tmp_path / "second")
    assert not any(b"matplotlib" in picture.lower() for picture in read(tmp_path / "first").values())


def test_drawing_needs_no_pyplot(run_python):
    program = "import sys, longattn_hf.report.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    run_python(program)


def test_strange_and_long_names_are_drawn_without_a_warning(tmp_path):
    names = ("日本語の出典", "$x^2_{", "a" * 300, "\N{GRINNING FACE}", "tab\tand\nline", None, "naïve — Ωμέγα")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_figures(*scored({"数学 $\\frac": 20, "c" * 100: 9}, sources=names), tmp_path)


def test_a_name_is_cut_in_its_middle_and_written_in_characters_the_font_has():
    assert plots.drawable("naïve Ω") == "naïve Ω"
    assert plots.drawable("\U0010ffff\x07x") == "\\U0010ffff\\x07x"
    cut = plots.drawable("begin" + "x" * 100 + "end", most=20)
    assert cut.startswith("begin") and cut.endswith("end") and "…" in cut and len(cut) <= 21


def write_font(path, char):
    """A font with one character, a filled square, as a font of another script would have it."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(char): "square"})
    pen = TTGlyphPen(None)
    for at, corner in enumerate(((100, 0), (100, 700), (800, 700), (800, 0))):
        (pen.lineTo if at else pen.moveTo)(corner)
    pen.closePath()
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "square": (900, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Zz Other Script", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_a_font_of_this_machine_draws_what_the_own_one_lacks(tmp_path, caplog):
    # of a script that no font of a test machine is likely to have
    char = "\U00016ab2"
    with plots.own_style([f"a {char}"]):
        missing = plots.drawable(f"a {char}")
    write_font(tmp_path / "other.ttf", char)
    fontManager.addfont(tmp_path / "other.ttf")
    try:
        with plots.own_style(["all Latin"]):
            assert matplotlib.rcParams["font.family"] == ["DejaVu Sans"]
        with plots.own_style([f"a {char}"]), warnings.catch_warnings():
            warnings.simplefilter("error")
            assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "Zz Other Script"]
            assert plots.drawable(f"a {char}") == f"a {char}"
            figure = plots._source_figure(pa.table({"source": [f"a {char}"], "kept": [True]}))
            figure.canvas.draw()
    finally:
        fontManager.ttflist = [entry for entry in fontManager.ttflist if entry.name != "Zz Other Script"]
    assert missing == "a \\U00016ab2" and not caplog.messages


def test_categories_are_drawn_on_one_scale_unless_they_could_not_be_read():
    table, report = scored({"code": 40, "prose": 60})
    windows = [plots._windows_of(table, name, report.categories[name].cut) for name in ("code", "prose")]
    with plots.own_style():
        figure = plots._score_figure(windows, "score")
        uneven = plots._score_figure(
            [*windows, replace(windows[0], score=np.zeros(5000), kept=np.ones(5000, bool))], ""
        )
        pooled = plots._score_figure(
            [*windows, replace(windows[0], score=np.zeros(5000), kept=np.ones(5000, bool), pooled=True)], ""
        )
        plane = plots._strength_figure(windows, 0.3)
    assert pooled.get_supylabel() == "windows" and len({axes.get_ylim() for axes in pooled.axes}) == 2
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    assert figure.get_supylabel() == "windows" and "own" in uneven.get_supylabel()
    assert len({axes.get_ylim() for axes in uneven.axes}) == 3 and len({axes.get_xlim() for axes in uneven.axes}) == 1
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in plane.axes}) == 1
    for axes, one in zip(figure.axes, windows, strict=True):
        bars = [patch for container in axes.containers for patch in container]
        assert sum(bar.get_height() for bar in bars) == len(one.score)
        assert sum(bar.get_height() for bar in axes.containers[0]) == one.kept.sum()
        assert set(np.diff(axes.get_xticks())) <= {1.0, 2.0} and set(np.diff(axes.get_yticks())) <= {1.0, 2.0, 5.0}
        assert {round(bar.get_x() % 0.5, 9) for bar in bars} == {0.0}, "edges are rounded"


def test_of_many_categories_the_largest_are_drawn_and_the_others_together():
    sizes = {f"c{at:02}": 5 + at for at in range(12)}
    table, report = scored(sizes)
    cuts = {name: facts.cut for name, facts in report.run_categories.items()}
    shown = plots._shown_categories(table, cuts, report)
    assert [one.name for one in shown] == [*list(sizes)[2:], "2 others"]
    assert [len(one.score) for one in shown] == [*range(7, 17), 5 + 6] and shown[-1].cut is None
    # the best fifth, rounded up
    assert shown[-1].kept.sum() == 1 + 2
    eleven = {name: cut for name, cut in cuts.items() if name != "c00"}
    assert [one.name for one in plots._shown_categories(table, eleven, report)] == list(eleven)


def test_bars_stand_out_from_the_paper_three_to_one():
    def light(colour):
        return 0.05 + sum(
            weight * (value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4)
            for weight, value in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True)
        )

    pairs = [("#ffffff", figure_style.DROPPED), ("#ffffff", figure_style.KEPT_COLOUR)]
    for rule in re.findall(r"\{[^}]*--la-paper: #[^}]*\}", read_asset("page.css")):
        colours = dict(re.findall(r"--la-(\w+): (#\w+)", rule))
        pairs += [(colours["paper"], colours[name]) for name in ("dropped", "kept", "cut")]
    assert len(pairs) == 8
    for paper, bar in pairs:
        dark, bright = sorted((light(paper), light(bar)))
        assert bright / dark >= 3, (paper, bar)


def test_rows_without_scores_are_not_drawn_and_a_missing_source_is_unnamed(tmp_path):
    table, report = scored({"code": 30}, sources=(None,))
    unscored = table.slice(0, 3).set_column(4, "long_distance_score", pa.nulls(3, pa.float64()))
    draw_figures(table, report, tmp_path / "plain")
    draw_figures(pa.concat_tables([table, unscored]).drop_columns("source"), report, tmp_path / "more")
    assert read(tmp_path / "plain") == read(tmp_path / "more")


def test_the_shares_of_the_sources_are_counted_and_the_smallest_pooled():
    names = [f"source {at:02}" for at in range(55)]
    # source n has n + 1 windows, the first of which is kept
    sources = [name for at, name in enumerate(names) for _ in range(at + 1)]
    kept = np.concatenate([[True] + [False] * at for at in range(55)])
    with plots.own_style():
        (axes,) = plots._source_figure(pa.table({"source": sources, "kept": kept})).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    counts = [text.get_text() for text in axes.texts]
    widths = [bar.get_width() for bar in axes.containers[1]]
    assert len(labels) == 21
    assert (labels[0], counts[0], widths[0]) == ("source 35", "1 of 36", pytest.approx(1 / 36))
    assert (labels[-2], counts[-2]) == ("source 54", "1 of 55")
    # 1 + 2 + ... + 35 windows
    assert (labels[-1], counts[-1], widths[-1]) == ("35 smaller sources", "35 of 630", pytest.approx(1 / 18))


def test_the_axes_state_unit_and_null(tmp_path):
    table, report = scored({"code": 30})
    windows = [plots._windows_of(table, "code", report.categories["code"].cut)]
    null = uniform_dependency_strength(0.25)
    figure = plots._strength_figure(windows, null)
    (axes,) = figure.axes
    assert axes.lines[0].get_xdata()[0] == pytest.approx(0.75 - np.log(4) / 4)
    points = np.concatenate([points.get_offsets() for points in axes.collections])
    assert len(points) == 30
    exponent = int(np.floor(np.log10(-min(windows[0].uniformity))))
    assert f"10^{{{exponent}}}" in figure.get_supylabel()
    assert points[:, 1].min() == pytest.approx(windows[0].uniformity.min() / 10.0**exponent)
    assert "min-max units" in plots._score_figure(windows, "min-max units").get_supxlabel()


@pytest.mark.parametrize(("null", "shown"), [(0.35, True), (0.9, False)])
def test_a_null_far_from_the_windows_stands_in_the_legend_only(null, shown):
    table, report = scored({"code": 30})
    figure = plots._strength_figure([plots._windows_of(table, "code", None)], null)
    (axes,), (legend,) = figure.axes, figure.legends
    assert len(axes.lines) == shown and axes.get_xlim()[1] < 0.6
    assert ("outside the panels" in legend.get_texts()[-1].get_text()) != shown


def test_a_missing_column_and_an_unknown_category_are_named(tmp_path):
    table, report = scored({"code": 5})
    with pytest.raises(ValueError, match="need kept; the columns are category, source"):
        draw_figures(table.drop_columns("kept"), report, tmp_path)
    with pytest.raises(ValueError, match="no category 'code'"):
        draw_figures(table, report_of({"prose": None}), tmp_path)
    assert read(tmp_path) == {}
