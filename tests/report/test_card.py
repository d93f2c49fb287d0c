import json
import re

import pytest
from datasets import Dataset, DatasetInfo, Features, load_dataset
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs, known_task_ids
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from longattn_hf.columns import SCORE_FEATURES, SELECTION_FEATURES, WINDOW_FEATURES
from longattn_hf.hub.card_merge import BEGIN, END, merge_cards
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


def test_a_folder_with_the_card_loads_by_configuration_and_by_default(tmp_path):
    report = example_report()
    features = Features(WINDOW_FEATURES | SCORE_FEATURES | SELECTION_FEATURES)
    for name, config in report["configs"].items():
        row = {column: None for column in features} | {"id": name, "input_ids": [1, 2]}
        rows = Dataset.from_list([row] * config["num_rows"], features=features)
        rows.to_parquet(tmp_path / config["data_files"].replace("*", "00000-of-00001"))
    (tmp_path / "README.md").write_text(render(report), encoding="utf-8")
    for name, config in report["configs"].items():
        loaded = load_dataset(str(tmp_path), name, split="train")
        assert loaded.features == features
        assert set(loaded["id"]) == {name} and len(loaded) == config["num_rows"]
    assert set(load_dataset(str(tmp_path), split="train")["id"]) == {"code"}


def test_the_body_states_the_settings_the_model_and_the_null():
    card = render(example_report())
    for line in (
        "| `alpha` | `0.5` |",
        "| `threshold` | `none` |",
        f"| `sha256` | `{'9f' * 32}` |",
        '| `rope` | `{"rope_type": "default", "rope_theta": 100000.0}` |',
        "| all | 45 | 104 | 851,968 | 26 | 212,992 | 12 | |",
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
    assert block_structure(card) == block_structure(render(example_report()))
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


def test_a_published_card_names_its_repository():
    card = render(example_report() | {"repo_id": "me/LongABC"})
    assert 'load_dataset("me/LongABC", "code", split="train")' in card


def test_a_recipe_that_was_not_run_says_so_wherever_a_run_would_have_measured():
    card = render(unrun_report())
    assert "**Not run.**" in card
    assert "| `arxiv` | not run | not run | not run | not run | not run | not run | not run |" in card
    assert "| `sha256` | not run |" in card and "`0123456789abcdef0123456789abcdef01234567`" in card
    assert "| `allenai/dolma` | ODC-By | `prose` | not run | not run | not run |" in card
    assert card.count("\nNot run") == 5
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
