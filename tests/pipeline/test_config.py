from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from longattn_hf.pipeline.command_line import read_build
from longattn_hf.pipeline.config import BuildConfig, load_config
from longattn_hf.pipeline.recipe import plan_report
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.report.card import render_card

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
SOURCE = {"category": "book", "path": "demo"}
LEAST = {"name": "n", "model": "m", "sources": [SOURCE], "fraction": 0.5}


def write(tmp_path, **values):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(LEAST | values))
    return path


_OTHERS = ("train_", "compare_", "pilot_")
BUILDS = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.startswith(_OTHERS))


@pytest.mark.parametrize("path", BUILDS, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_is_valid(path):
    config = load_config(path)
    assert config.resolved_min_distance * 4 == config.window_tokens


@pytest.mark.parametrize(("category", "expected"), [("default", "default"), ("code", "book")])
def test_the_default_is_the_category_of_that_name_or_the_first_one(tmp_path, category, expected):
    config = load_config(write(tmp_path, sources=[SOURCE, SOURCE | {"category": category}]))
    card = DatasetCard(render_card(plan_report(config)))
    assert MetadataConfigs.from_dataset_card_data(card.data).get_default_config_name() == expected
    assert f"The default is `{expected}`.\n" in card.text


@pytest.mark.parametrize("name", ["longabc_32k", "longabc_32k_70b"])
def test_the_real_recipes_have_the_papers_settings(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert (config.window_tokens, config.min_distance, config.alpha) == (32768, 8192, 0.5)
    assert (config.rope_theta, config.token_budget, config.convention) == (2.5e6, 1_500_000_000, "paper")
    assert config.categories == ["arxiv", "book", "code"]


def test_a_setting_on_the_command_line_goes_before_the_files(tmp_path):
    path = write(tmp_path, alpha=0.25)
    config, words = read_build(
        ["--config", str(path), "--window_tokens", "64", "--rope_theta", "2.5e6", "--refuse_overlap", "--dry_run"]
        + ["--push_to_hub", "me/data"],
        default_config=path,
    )
    assert config.dry_run
    assert (config.window_tokens, config.rope_theta, config.refuse_overlap, config.alpha) == (64, 2.5e6, True, 0.25)
    assert words == "--window_tokens 64 --rope_theta 2.5e6 --refuse_overlap true"


def test_the_words_for_the_card_name_no_local_path(tmp_path):
    path = write(tmp_path)
    _, words = read_build(
        ["--config", str(path), "--output_dir", str(tmp_path), "--alpha", "1"], default_config=Path("demo.yaml")
    )
    assert words == "--config config.yaml --alpha 1"


def test_quotas_by_category_can_be_given_on_the_command_line(tmp_path):
    path = write(tmp_path, fraction=None)
    config, words = read_build(["--token_budget", "{book: 100}"], default_config=path)
    assert config.token_budget == {"book": 100}
    assert words == """--token_budget '{"book": 100}'"""


def test_reference_code_keeps_the_top_half_by_itself(tmp_path):
    assert load_config(write(tmp_path, fraction=None, convention="reference_code")).fraction == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"windw_tokens": 5}, "Unknown setting 'windw_tokens' in .*Did you mean 'window_tokens'"),
        ({"sources": [SOURCE | {"catgory": 1}]}, "Unknown setting 'catgory' in a source.*'category'"),
        ({"sources": []}, "names no sources"),
        ({"sources": [{"path": "x"}]}, "lacks category"),
        ({"sources": "demo"}, "must be a list of mappings"),
        ({"window_tokens": "many"}, "window_tokens='many' in the configuration .* must be int, not str"),
        ({"alpha": "half"}, "alpha='half'.*must be float"),
        ({"window_tokens": True}, "must be int, not bool"),
        ({"min_distance": 32768}, r"must lie in \[0, window_tokens\)"),
        ({"threshold": 1.0}, "and total_token_budget, not threshold and fraction"),
        ({"fraction": None}, "Give exactly one of threshold, fraction, .*, not none of them"),
        ({"window_tokens": 0}, "at least 1"),
        ({"fraction": None, "total_token_budget": {"book": 5}}, "total_token_budget={'book': 5} .* must be int"),
        ({"fraction": None, "total_token_budget": 5, "certify": True}, "decides .* not with total_token_budget=5"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path, **values))


def test_files_that_are_no_configuration_are_named(tmp_path):
    with pytest.raises(ValueError, match="Cannot read the configuration .*No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match="must hold a mapping"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_config(tmp_path / "broken.yaml")


def test_an_unknown_option_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="Unknown setting 'apha' in the command line. Did you mean 'alpha'"):
        read_build(["--apha", "1"], default_config=write(tmp_path))


def test_settings_are_frozen_and_name_their_folder():
    config = BuildConfig(name="x", model="m", sources=(SourceConfig(**SOURCE),), fraction=0.5)
    assert config.folder == Path("out/x")
    with pytest.raises(AttributeError):
        config.alpha = 1.0


def test_words_of_yaml_1_1_are_text_and_numbers_are_numbers_inside_lists_and_mappings_too(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "name: n\nmodel: m\nlanguage: [en, no]\ntoken_budget: {no: 1e6, book: 1_000}\nrope_theta: 2.5e6\n"
        "data_version: 2026-11-25\nsources: [{category: 'no', path: demo, columns: [y, on]}, "
        "{category: book, path: demo}]\n"
    )
    config = load_config(path)
    assert (config.language, config.sources[0].columns) == (["en", "no"], ["y", "on"])
    assert config.token_budget == {"no": 1_000_000, "book": 1000} and config.rope_theta == 2.5e6
    assert config.data_version == "2026-11-25"


def test_a_setting_given_twice_is_refused(tmp_path):
    path = write(tmp_path)
    for text, name in (("fraction: 0.5\nfraction: 0.25\n", "fraction"), ("gate: {x: 1, y: 2, x: 3}\n", "x")):
        twice = tmp_path / "twice.yaml"
        twice.write_text(path.read_text() + text)
        with pytest.raises(ValueError, match=f"twice.yaml is not YAML: {name} is given twice in .*line"):
            load_config(twice)
    with pytest.raises(ValueError, match="x is given twice"):
        read_build(["--gate", "{x: 1, x: 2}"], default_config=path)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/x", "", "a b", "a\nb", "*", "scores", "x" * 300])
def test_a_category_that_cannot_name_a_configuration_is_refused_at_once(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a configuration|is the name of the scores"):
        load_config(write(tmp_path, sources=[SOURCE | {"category": name}]))


# what people and programs have typed where something else was meant
ODD = [
    "", " ", "nan", "-nan", ".inf", "-.inf", "1e400", "-1", "0", "1" * 400, "1_000", "0x10", "١٢", "½", "true", "no",
    "null", "~", "[]", "{}", "[[[1]]]", "{a: {b: 1}}", "{1: 2}", "{a: 1, a: 2}", "a: b: c", "\t- x", "'", '"', "[1, 2",
    "!!python/object:os.system x", "&a [*a]", "*a", "2026-11-25", "<<: {a: 1}", "😀", "\u202e", "\x00", "x" * 5000,
    "&a [x]", "{? [1] : 2}", "%", "@", "`", "|", "--", "../..", "/", "a\nb",
]  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in fields(BuildConfig)])
def test_any_value_of_a_setting_is_taken_or_refused_in_a_line(tmp_path, name):
    path = write(tmp_path)
    for value in ODD:
        try:
            config, words = read_build([f"--{name}={value}"], default_config=path)
        except ValueError as error:
            message = " ".join(str(error).split())
            assert 10 < len(message) < 500 + 2 * len(value), (value, message)
        else:
            assert "\n" not in words or "\n" in value
            assert hash(repr(config))


@pytest.mark.parametrize("value", ODD)
def test_any_value_in_a_file_is_taken_or_refused_in_a_line(tmp_path, value):
    for name in ("alpha", "fraction", "sources", "scorers", "gate", "language", "name"):
        path = tmp_path / "odd.yaml"
        path.write_text(f"name: n\nmodel: m\nfraction: 0.5\n{name}: {value}\n", encoding="utf-8")
        with pytest.raises(ValueError, match="."):
            load_config(path)


def test_aliases_that_make_a_million_values_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match="bomb.yaml is not YAML: its aliases make more than 100,000 values"):
        load_config(tmp_path / "bomb.yaml")
