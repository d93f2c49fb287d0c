"""The committed cards: rendered from their reports, planned from today's recipes, readable for the Hub's clients."""

import json
import re

import pytest
from datasets import Features
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.recipe import plan_report
from recipes.render_cards import CARDS, RECIPES, ROOT, main
from tests.support.reports import assert_card_is_current

RECIPE_OF = {load_config(path).name: path for path in RECIPES}
FOLDERS = sorted(path for path in CARDS.iterdir() if path.is_dir())
UNRUN = [path for path in FOLDERS if json.loads((path / "report.json").read_text()).get("not_run")]
RUN = [path for path in FOLDERS if path not in UNRUN]


def by_name(path):
    return path.name


def test_each_recipe_has_its_card_and_the_demo_was_run():
    assert {path.name for path in FOLDERS} == set(RECIPE_OF)
    assert [path.name for path in RUN] == ["longabc-demo-8k"]


@pytest.mark.parametrize("folder", FOLDERS, ids=by_name)
def test_a_card_is_what_its_report_renders_to(folder):
    assert_card_is_current(folder)


@pytest.mark.parametrize("folder", UNRUN, ids=by_name)
def test_the_card_of_a_recipe_that_was_not_run_says_what_the_recipe_says_today(folder):
    report = json.loads((folder / "report.json").read_text())
    path = RECIPE_OF[folder.name]
    assert report == plan_report(load_config(path), f"--config {path.relative_to(ROOT).as_posix()}").to_dict()
    card = (folder / "README.md").read_text()
    assert "**Not run.**" in card and card.count("not run") > 10
    for source in load_config(RECIPE_OF[folder.name]).sources:
        assert f"| `{source.path}` | {source.license} | `{source.category}` | not run | not run | not run |" in card


@pytest.mark.parametrize("folder", RUN, ids=by_name)
def test_the_card_of_a_run_has_the_recipes_settings_and_the_columns_that_a_plan_foresees(folder):
    report = json.loads((folder / "report.json").read_text())
    config = load_config(RECIPE_OF[folder.name])
    plan = plan_report(config).to_dict()
    recipe = {n: v for n, v in plan.items() if n not in ("not_run", "model", "categories", "sources", "configs")}
    # what "auto" came to is the run's to say
    assert report["settings"].pop("impl") in ("blockwise", "fused") and recipe["settings"].pop("impl") == "auto"
    assert {name: report[name] for name in recipe} == recipe
    planned = plan["configs"]
    assert {name: {key: facts[key] for key in planned[name]} for name, facts in report["configs"].items()} == planned
    assert (folder / "report.html").exists(), "the card points to it"
    assert sorted(f"figures/{path.name}" for path in (folder / "figures").iterdir()) == sorted(report["figures"])


@pytest.mark.parametrize("folder", FOLDERS, ids=by_name)
def test_the_hubs_clients_read_the_metadata(hub, folder):
    card = DatasetCard.load(folder / "README.md")
    # the rules of the Hub's page, which reads the card's metadata, as far as the clients have them
    card.validate(repo_type="dataset")
    report, data = json.loads((folder / "report.json").read_text()), card.data
    configs = MetadataConfigs.from_dataset_card_data(data)
    assert list(configs) == sorted(report["configs"]) or list(configs) == list(report["configs"])
    assert configs.get_default_config_name() == report["default_config"]
    infos = DatasetInfosDict.from_dataset_card_data(data)
    for name, facts in report["configs"].items():
        assert infos[name].features == Features._from_yaml_list(facts["features"])
        assert configs[name]["data_files"] == [{"split": "train", "path": facts["data_files"]}]
        if folder in RUN:
            assert infos[name].splits["train"].num_examples == facts["num_rows"] > 0
    licences = [data.license] if isinstance(data.license, str) else data.license
    assert licences and all(re.fullmatch(r"[a-z0-9.+-]+", licence) for licence in licences)
    if folder in UNRUN:
        assert licences == ["odc-by", "other"], "and what is in the public domain, or licensed file by file"
    assert all(re.fullmatch("[a-z]{2,3}", language) for language in data.language)
    assert data.task_categories == ["text-generation"] and data.annotations_creators == ["machine-generated"]
    assert ("size_categories" in data.to_dict()) == (folder in RUN)
    hub_ids = {row["source"] for row in report["sources"] if re.fullmatch(r"[\w.-]+/[\w.-]+", row["source"])}
    assert set(data.source_datasets) - {"original"} == hub_ids


@pytest.mark.parametrize("folder", FOLDERS, ids=by_name)
def test_no_card_names_a_local_path(folder):
    # code and documents in the excerpts may name paths of their own
    told = json.dumps(json.loads((folder / "report.json").read_text()) | {"examples": None})
    assert not re.search(r"(?<![\w.])(~|/(home|tmp|root|work|mnt|Users|usr|opt))/", told)


def test_rendering_again_changes_no_byte(capsys):
    before = {path: path.read_bytes() for path in CARDS.rglob("*") if path.is_file()}
    main([])
    assert {path: path.read_bytes() for path in CARDS.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().out.count("not run") == len(UNRUN)
