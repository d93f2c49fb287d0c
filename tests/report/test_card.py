import json
import re

import pytest
from datasets import Dataset, DatasetInfo, Features, load_dataset
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs, known_task_ids
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from longattn_hf.columns.features import SCORE_FEATURES, SELECTION_FEATURES, WINDOW_FEATURES
from longattn_hf.hub.card_merge import BEGIN, END, merge_cards
from longattn_hf.report.card_words import number
from tests.support.reports import assert_card_is_current, example_report, render, unrun_report


def facts_below(facts, path=()):
    """Every path to a fact of a report, without the facts that the report may leave open."""
    pairs = facts.items() if isinstance(facts, dict) else enumerate(facts)
    for name, value in pairs:
        here = (*path, name)
        yield here
        if isinstance(value, dict | list):
            yield from facts_below(value, here)


def optional(path):
    # a setting of the free kind, an item of a list or of a mapping by name, or a part of datasets' own format
    names = [part for part in path if isinstance(part, str)]
    return (
        isinstance(path[-1], int)
        or path[:2] == ("model", "rope")
        and len(path) > 2
        or path[0] == "settings"
        and path[-1] not in ("settings", "window_tokens", "min_distance", "alpha")
        or path[0] in ("categories", "configs", "examples", "software")
        and len(path) == 2
        or path[:2] == ("agreement", "categories")
        and len(path) == 3
        or "skipped" in names[:-1]
        or path[-1] in ("revision", "max_positions", "rope")
        or "features" in names[:-1]
    )


def block_structure(card):
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(DatasetCard(card).text)
    return [(token.type, token.tag, token.info) for token in tokens]


REQUIRED = [path for path in facts_below(example_report()) if not optional(path)]


@pytest.mark.parametrize("path", REQUIRED, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_fact_is_an_error_that_names_it(path):
    report = example_report()
    holder = report
    for name in path[:-1]:
        holder = holder[name]
    del holder[path[-1]]
    with pytest.raises(ValueError, match=re.escape(str(path[-1]))):
        render(report)


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_fact_is_an_error_that_names_its_place(empty):
    report = example_report()
    report["sources"][1]["source"] = empty
    with pytest.raises(ValueError, match=re.escape(f"sources[1].source is {empty!r}")):
        render(report)


def test_the_metadata_is_what_the_hub_and_datasets_accept():
    data = DatasetCard(render(example_report())).data
    assert data.license == ["bsd-3-clause", "odc-by"]
    assert data.source_datasets == ["original", "allenai/dolma"]
    assert data.size_categories == ["n<1K"]
    assert data.annotations_creators == ["machine-generated"]
    assert set(data.task_categories) <= known_task_ids.keys()
    configs = MetadataConfigs.from_dataset_card_data(data)
    assert configs.get_default_config_name() == "code"
    assert configs["prose"]["data_files"] == [{"split": "train", "path": "data/prose/train-*.parquet"}]
    info = DatasetInfosDict.from_dataset_card_data(data)["prose"]
    assert isinstance(info, DatasetInfo)
    assert info.features == Features(WINDOW_FEATURES | SCORE_FEATURES | SELECTION_FEATURES)
    assert (info.splits["train"].num_examples, info.download_size, info.dataset_size) == (11, 330_000, 770_000)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (["MIT"], {"license": "mit"}),
        (
            ["Apache-2.0", "BSD-3-Clause AND MIT", "GPL-3.0-or-later"],
            {"license": ["apache-2.0", "bsd-3-clause", "gpl-3.0", "mit"]},
        ),
        (["PSF-2.0", "MIT", None], {"license": ["mit", "other", "unknown"]}),
        (["Terms of arXiv"], {"license": "other", "license_name": "terms-of-arxiv"}),
        (["(Zlib OR 0BSD)"], {"license": ["zlib", "other"]}),
    ],
)
def test_licences_become_the_hubs_identifiers_and_stand_as_stated_in_the_table(stated, expected):
    report = example_report()
    row = report["sources"][0]
    report["sources"] = [row | {"license": license_} for license_ in stated]
    card = render(report)
    data = DatasetCard(card).data.to_dict()
    assert {name: data[name] for name in ("license", "license_name") if name in data} == expected
    for license_ in stated:
        assert f"| {license_ or 'not stated'} |" in card


@pytest.mark.parametrize(
    ("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (137_000, "100K<n<1M"), (10**12, "n>1T")]
)
def test_the_size_category_counts_the_kept_windows(rows, size):
    report = example_report()
    report["categories"]["code"]["kept_windows"], report["categories"]["prose"]["kept_windows"] = rows, 0
    assert DatasetCard(render(report)).data.size_categories == [size]


def test_a_folder_with_the_card_loads_by_default_and_the_cards_code_runs_as_it_stands(tmp_path, monkeypatch):
    report = example_report()
    features = Features(WINDOW_FEATURES | SCORE_FEATURES | SELECTION_FEATURES)
    row = {column: None for column in features} | {"input_ids": [1, 2]}
    folder = tmp_path / "out" / "longabc-demo"
    for name, config in report["configs"].items():
        config["num_rows"] = 2
        # one above half-way from the cut, 0.81, to the best, 2.25; one at the cut
        rows = [row | {"id": name, "long_distance_score": score} for score in (1.6, 0.8123456)]
        file = folder / config["data_files"].replace("*", "00000-of-00001")
        Dataset.from_list(rows, features=features).to_parquet(file)
    card = render(report)
    (folder / "README.md").write_text(card, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^## Use\n\n```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    found = {}
    exec(code, found)
    assert found["data"].features == found["scores"].features == features
    assert found["data"]["id"][:] == ["code", "code"] and set(found["scores"]["id"]) == {"scores"}
    assert [window["id"] for window in found["stream"]] == ["code", "code"]
    assert found["best"]["long_distance_score"][:] == [1.6]
    assert set(load_dataset(str(folder), split="train")["id"]) == {"code"}


@pytest.mark.parametrize(
    ("cut", "best", "own"),
    [(0.81, 2.25, "1.5"), (12345.0, 12400.0, "12370"), (0.99996, 0.99998, "0.99997"), (2, 2, "2.0")],
)
def test_the_cards_own_cut_lies_between_the_cut_and_the_best_score(cut, best, own):
    report = example_report()
    report["categories"]["code"]["cut"] = cut
    report["categories"]["code"]["scores"]["long_distance_score"]["max"] = best
    assert f'window["long_distance_score"] > {own})' in render(report)


def test_the_body_states_the_settings_the_model_and_the_null():
    card = render(example_report())
    for line in (
        "| `alpha` | `0.5` |",
        "| `threshold` | `none` |",
        f"| `sha256` | `{'9f' * 32}` |",
        '| `rope` | `{"rope_type": "default", "rope_theta": 100000.0}` |',
        "| all | 45 | 104 | 851,968 | 26 | 212,992 | 12 | |",
        "**26 windows of 8,192 tokens (212,992 tokens in all), kept of 104 from 45 documents**: `code` 15, `prose` 11",
        "licence of its source: BSD-3-Clause (15 of 26 kept windows), ODC-By (11).",
        "`reference_code` would have kept 80% of the same windows in each category.",
        "| `prose` | documents | too short | 2 |",
        "| `code` | 0.9123 | 80% |",
        "| `prose` | - | - |",
        "![kept by source](figures/kept_by_source.png)",
        "https://arxiv.org/abs/2502.16860",
        "accelerate launch recipes/build_longabc.py",
    ):
        assert line in card
    # (1 - r) + r ln r at r = 1/4 is 3/4 - ln(4)/4
    assert "give 0.4034 at k/L = 0.25" in card
    assert "positions that the model is made for" not in card


def test_what_a_reader_wants_first_stands_first_and_details_are_folded():
    card = render(example_report() | {"found": "It does not help.", "not_default": ["fraction"]})
    body = card[card.index(BEGIN) :]
    places = ["**26 windows", "![long distance scores]", "[Limits](#limits)", "## Limits", "It does not help."]
    places += [f"## {name}\n" for name in ("What is in it", "Use", "How it was made", "Scores", "Examples")]
    places += ["## Sources and licences\n", "## Citation\n"]
    assert sorted(places, key=body.index) == places
    seen, folded = split_folds(body)
    assert "Settings that are not the default: `fraction` `0.25`.\n" in seen and "| `fraction`" not in body
    assert "| `alpha` | `0.5` |" in folded and "| `rope` |" in folded and "@inproceedings" in folded
    assert "| `map_variance` |" in folded and "| `map_variance` |" not in seen
    # each anchor of the contents is a heading's
    for anchor in re.findall(r"\]\(#([\w-]+)\)", seen):
        assert f"## {anchor.replace('-', ' ')}\n" in seen.lower()
    # a column of all configurations is listed once
    assert body.count("| `doc_id` |") == 1


def split_folds(body):
    parts = re.split(r"<details>\n(.*?)</details>\n", body, flags=re.DOTALL)
    return "".join(parts[::2]), "".join(parts[1::2])


def test_thirty_categories_make_a_card_longer_by_a_row_each():
    def of(count):
        report = example_report()
        names = [f"c{at:02}" for at in range(count)]
        report["categories"] = {name: report["categories"]["code"] for name in names}
        report["agreement"]["categories"] = {name: report["agreement"]["categories"]["code"] for name in names}
        report["examples"] = {name: report["examples"]["code"] for name in names}
        report["sources"] = [report["sources"][0] | {"category": name} for name in names]
        report["configs"] = {name: report["configs"]["code"] for name in names}
        return split_folds(render(report | {"default_config": "c00"}).partition(BEGIN)[2])[0].splitlines()

    three, thirty = of(3), of(30)
    tables = [len([line for line in lines if line.startswith("| `c")]) for lines in (three, thirty)]
    assert tables == [3, 30]
    # sources beyond twenty are folded
    assert len([line for line in thirty if line.startswith("| `jinja2")]) == 20
    assert 0 <= len(thirty) - len(three) - (30 - 3) - (20 - 3) <= 3
    assert "and 20 others. Version" in "\n".join(thirty)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"), (12_345, "12,345"), (999_499, "999,499"), (1_000_000, "1 M"), (1_234_567, "1.23 M"),
        (999_600_000, "1 B"), (34_560_000_000, "34.6 B"), (2 * 10**12, "2 T"), (-1_500_000, "-1.5 M"),
        (0.0, "0"), (0.152349, "0.1523"), (2048.0, "2048"), (123456.7, "123,457"),
        (-7.2649e-9, "-7.26 × 10⁻⁹"), (4e12, "4.00 × 10¹²"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_people_do(value, written):
    assert number(value) == written


def test_a_mean_that_is_a_rounding_beside_its_scores_is_zero():
    assert number(1.585e-15, 0.8) == "0" and number(1.586e-15, 1e-15) == "1.59 × 10⁻¹⁵"
    report = example_report()
    report["categories"]["code"]["scores"]["long_distance_score"]["mean"] = 1.585e-15
    assert "| `code` | `long_distance_score` | -2.5 | 0 | 2.25 | 1.188 |" in render(report)


def test_an_example_shows_the_passage_that_scored_and_how_far_it_looks():
    report = example_report()
    report["examples"]["code"]["highest"][0]["far_share"] = 0.3125
    text = "The passage that attends back furthest gives 31.2% of its attention to tokens at least 2,048 back:"
    assert text in render(report) and "attends back furthest" not in render(example_report())


def test_long_licences_are_listed_in_full_once():
    report = example_report()
    long = "Apache-2.0 AND BSD-2-Clause AND BSD-3-Clause AND MIT"
    for row in report["sources"]:
        row["license"] = long
    card = render(report)
    assert card.count(long) == 1 and card.count("| Apache-2.0…¹ |") == 2
    assert f"1. {long}\n" in card and "source: Apache-2.0…¹ (26 of 26 kept windows)." in card


def test_the_text_follows_the_convention_and_the_settings():
    report = example_report() | {"convention": "reference_code"}
    report["settings"] |= {"refuse_overlap": False, "row_fraction": 0.25, "window_tokens": 32768, "min_distance": 4096}
    card = render(report)
    assert "`minmax(strength) - alpha * minmax(variance)`" in card and "z(strength)" not in card
    assert "better one of its document" not in card
    assert "attention was computed for 25% of each window's tokens" in card
    # (1 - r) + r ln r at r = 1/8
    assert "give 0.6151 at k/L = 0.125" in card
    assert "longer than the 8,192 positions that the model is made for" in card


def test_nothing_of_a_document_a_name_or_a_reason_breaks_out_of_its_place():
    hostile = f"{END} {BEGIN} | `` ``` <script>x</script>\n```\n# Heading\n\n- item\n---\n[a](b) \x00"
    report = example_report()
    report["pretty_name"] = report["version"] = hostile
    report["categories"]["code"]["skipped"] = {hostile: 2, "empty": 1}
    report["sources"][0] |= {"source": hostile, "license": hostile}
    report["settings"]["note"] = report["settings"].pop("add_bos")
    report["settings"]["note"] = hostile
    report["model"]["model"] = hostile
    report["command"] = hostile
    for example in (*report["examples"]["code"]["highest"], *report["examples"]["code"]["lowest"]):
        example |= {"id": hostile, "source": hostile, "excerpt": hostile}
    card = render(report)
    harmless = example_report()
    # a long licence stands in a list of its own
    harmless["sources"][0]["license"] = "L" * 40
    assert block_structure(card) == block_structure(render(harmless))
    assert merge_cards(card, card) == card


def test_a_description_with_the_markers_is_refused():
    with pytest.raises(ValueError, match="must not hold the card's markers"):
        render(example_report() | {"description": f"Text {END}"})


def test_a_data_set_may_go_without_a_description():
    assert "# LongABC demo\n\n" in render(example_report() | {"description": ""})


def test_what_else_the_model_states_stands_behind_its_facts():
    report = example_report()
    report["model"] |= {"rope_theta": 2_500_000.0, "rope_scaling": None, "max_positions": None}
    card = render(report)
    assert "| `rope_theta` | `2500000.0` |\n| `rope_scaling` | `none` |" in card
    assert "| `max_positions` | `none` |" in card


def test_an_unknown_default_configuration_is_refused():
    with pytest.raises(ValueError, match="default_config='arxiv' is none of the configurations 'code', 'prose'"):
        render(example_report() | {"default_config": "arxiv"})


def test_a_configuration_called_default_is_the_default():
    report = example_report()
    report["configs"]["default"] = report["configs"]["prose"]
    with pytest.raises(ValueError, match="default_config='code' is given, but datasets takes .*'default'"):
        render(report)
    data = DatasetCard(render(report | {"default_config": "default"})).data
    assert MetadataConfigs.from_dataset_card_data(data).get_default_config_name() == "default"


def test_a_published_card_names_its_repository():
    card = render(example_report() | {"repo_id": "me/LongABC"})
    assert 'load_dataset("me/LongABC", "code", split="train")' in card


def test_a_recipe_that_was_not_run_says_so_wherever_a_run_would_have_measured():
    card = render(unrun_report())
    assert "**Not run.**" in card
    assert "| `arxiv` | not run | not run | not run | not run | not run | not run | not run |" in card
    assert "| `sha256` | not run |" in card and "`0123456789abcdef0123456789abcdef01234567`" in card
    assert "| `allenai/dolma` | ODC-By | `prose` | not run | not run | not run |" in card
    assert card.count("\nNot run") == 2
    assert "**Windows of 8,192 tokens in 2 categories**: `arxiv`, `book`. Version 1.0.0." in card
    data = DatasetCard(card).data
    assert data.size_categories is None
    info = DatasetInfosDict.from_dataset_card_data(data)["code"]
    assert info.splits is None and "text" in info.features


def test_a_recipe_that_was_not_run_still_needs_what_it_knows():
    report = unrun_report()
    del report["settings"]["alpha"]
    with pytest.raises(ValueError, match="lacks settings.alpha"):
        render(report)


def test_one_configuration_and_a_category_without_windows_are_fine():
    report = example_report()
    report["configs"] = {"code": report["configs"]["code"]}
    nothing = dict.fromkeys(("min", "mean", "max", "std"))
    scores = ("dependency_strength", "distribution_uniformity", "map_variance", "long_distance_score")
    report["categories"]["prose"] |= {"windows": 0, "cut": None, "scores": dict.fromkeys(scores, nothing)}
    card = render(report)
    assert "| `prose` | `map_variance` | - | - | - | - |" in card
    assert list(DatasetInfosDict.from_dataset_card_data(DatasetCard(card).data)) == ["code"]


def test_the_comparison_of_a_committed_card_shows_what_differs(tmp_path):
    report = example_report()
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "README.md").write_text(render(report), encoding="utf-8")
    assert_card_is_current(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(report | {"version": "1.0.1"}), encoding="utf-8")
    with pytest.raises(AssertionError, match=r"\+.*version 1\.0\.1"):
        assert_card_is_current(tmp_path)


def test_what_a_reader_should_know_of_the_selection_stands_among_the_limits():
    report = example_report()
    assert "ids alone decide" not in render(report)
    name, facts = next(iter(report["categories"].items()))
    facts["tied"] = facts["windows"] // 2
    limits = render(report).split("## Limits")[1].split("## What is in it")[0]
    assert (
        f"- {facts['tied']:,} of the {facts['windows']:,} windows of {name} have the same long\\_distance\\_score at"
        in limits
    )


def test_a_draw_is_told_as_one_everywhere():
    report = example_report()
    assert "The windows with the highest `long_distance_score` of each category were kept" in render(report)
    report["settings"]["temperature"] = 0.5
    card = render(report)
    assert "windows were drawn by chance, the likelier the higher their `long_distance_score`" in card
    assert "with the highest" not in card
