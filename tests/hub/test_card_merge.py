import time
from itertools import pairwise

import pytest
import yaml
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from longattn_hf.hub.card_merge import (
    BEGIN,
    END,
    merge_cards,
    name_repository,
    own_configurations,
    read_configurations,
    read_row_counts,
)
from longattn_hf.hub.patterns import file_patterns, matches
from tests.support.reports import example_report, render

OURS = f"""---
license: apache-2.0
tags:
- longattn
- long-context
configs:
- config_name: arxiv
  default: true
  data_files: data/arxiv/train-*
dataset_info:
- config_name: arxiv
  splits:
  - name: train
    num_examples: 3
---
# Title

{BEGIN}
new
{END}
"""
THEIRS = f"""---
# written by hand
license: mit   # for now
tags: [ours, "longattn"]
pretty_name: Naïve 手
configs:
- config_name: theirs
  data_files:
  - split: train
    path: theirs/*.csv
# about what follows
viewer: true
---
Before

{BEGIN}
old
{END}

After {BEGIN[:8]} no marker"""


def front_matter(card):
    return yaml.safe_load(card.split("---")[1])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_our_parts_change_and_the_rest_stays_byte_for_byte(newline):
    theirs = THEIRS.replace("\n", newline)
    merged = merge_cards(theirs, OURS)
    assert merged.count("\n") == merged.count(newline)
    before, after = merged.split(f"{BEGIN}{newline}new{newline}{END}")
    assert after == theirs.split(END)[1]
    assert before.endswith(f"---{newline}Before{newline * 2}")
    for text in (
        "---\n# written by hand\n",
        "pretty_name: Naïve 手\nconfigs:\n",
        "# about what follows\nviewer: true\n",
    ):
        assert text.replace("\n", newline) in before
    values = front_matter(merged)
    assert values["license"] == "apache-2.0", "a fact of the data is renewed"
    assert values["tags"] == ["ours", "longattn", "long-context"], "a list is added to"
    assert [entry["config_name"] for entry in values["configs"]] == ["theirs", "arxiv"]
    assert merge_cards(merged, OURS) == merged


def test_a_key_whose_value_stays_keeps_its_text():
    theirs = THEIRS.replace("license: mit ", "license: 'apache-2.0' ").replace(
        '"longattn"]', '"longattn", long-context]'
    )
    merged = merge_cards(theirs, OURS)
    assert "license: 'apache-2.0'   # for now\ntags: [ours, \"longattn\", long-context]\n" in merged


def test_there_is_one_default_and_a_foreign_one_stays():
    flagged = THEIRS.replace("config_name: theirs\n", "config_name: theirs\n  default: true\n")
    # that of this name is the default to datasets without a flag
    named = THEIRS.replace("config_name: theirs\n", "config_name: default\n")
    for card, default in ((THEIRS, "arxiv"), (flagged, "theirs"), (named, "default")):
        merged = merge_cards(card, OURS)
        configurations = MetadataConfigs.from_dataset_card_data(DatasetCard(merged).data)
        assert configurations.get_default_config_name() == default
        assert merge_cards(merged, OURS) == merged


def default_of(card):
    return MetadataConfigs.from_dataset_card_data(DatasetCard(card).data).get_default_config_name()


def renamed_report():
    """The next release of the example: its default `code` is called `source` now."""
    report = example_report()
    report["configs"] = {"source": report["configs"]["code"] | {"data_files": "data/source/train-*.parquet"}} | {
        name: facts for name, facts in report["configs"].items() if name != "code"
    }
    return report | {"default_config": "source"}


def test_the_default_of_an_earlier_release_gives_way_and_stays_loadable():
    first, second = render(example_report()), render(renamed_report())
    merged = merge_cards(first, second)
    assert default_of(first) == "code" and default_of(merged) == "source"
    assert read_configurations(merged)["code"]["data_files"][0]["path"] == "data/code/train-*.parquet"
    assert merge_cards(merged, second) == merged and "The default is `source`.\n" in merged
    # one called so is the default whatever is said of others
    named = merge_cards(
        first.replace("config_name: code\n", "config_name: default\n").replace("/code/", "/default/"), second
    )
    assert default_of(named) == "default" and "The default is `default`.\n" in named
    assert merge_cards(named, second) == named
    # a release without a default leaves the one there is
    assert default_of(merge_cards(first, OURS.replace("  default: true\n", ""))) == "code"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("files", ["theirs/*.csv", "data/th -->/train-*.parquet"])
def test_other_peoples_default_stays_wherever_their_files_lie_and_our_part_says_so(files, newline):
    name = files.split("/")[-2]
    front = {"configs": [{"config_name": name, "data_files": files, "default": True}]}
    card = f"---\n{yaml.safe_dump(front)}---\nText\n".replace("\n", newline)
    sentence = "without their text. The default is `mine`."
    for report in (example_report(), renamed_report()):
        ours = render(report | {"description": f"They are\n{sentence}"})
        card = merge_cards(card, ours)
        assert default_of(card) == name and f"The default is `{name}`.{newline}" in card and sentence in card
        assert merge_cards(card, ours) == card
        assert own_configurations(card, read_configurations(card)) == {*read_configurations(card)} - {name}


@pytest.mark.parametrize("theirs", [None, "", "\n"])
def test_without_a_card_ours_is_the_card(theirs):
    assert merge_cards(theirs, OURS) == OURS


@pytest.mark.parametrize("theirs", ["just text", "just text\n", "---\n---\njust text\n\n", "---\nviewer: true\n---\n"])
def test_a_card_without_markers_gets_our_part_at_its_end(theirs):
    merged = merge_cards(theirs, OURS)
    assert merged.endswith(f"\n{BEGIN}\nnew\n{END}\n") and ("just text\n\n<" in merged) == ("just" in theirs)
    assert "# Title" not in merged, "what stands outside the markers is for a new card"
    assert merge_cards(merged, OURS) == merged


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ("---\nlicense: [\n---\n", "not valid YAML"),
        ("---\n- a\n---\n", "must be a YAML mapping"),
        ("---\n{license: mit}\n---\n", "one block mapping"),
        ("---\nlicense: mit\n", "does not end with ---"),
        (f"{BEGIN}", "1 and 0 times"),
        (f"{END} {BEGIN}", "1 and 1 times"),
        (f"{BEGIN}{END}{BEGIN}{END}", "2 and 2 times"),
    ],
)
def test_a_card_that_cannot_be_merged_is_refused(theirs, message):
    with pytest.raises(ValueError, match=message):
        merge_cards(theirs, OURS)


def test_a_single_info_without_a_name_is_the_default_configurations():
    single = "---\ndataset_info:\n  splits:\n  - name: a\n    num_examples: 2\n  - name: b\n    num_examples: 5\n---\n"
    assert read_row_counts(single) == {"default": 7}
    infos = front_matter(merge_cards(single, OURS))["dataset_info"]
    assert [info["config_name"] for info in infos] == ["default", "arxiv"]


def test_patterns_name_files_in_one_folder():
    patterns = file_patterns(read_configurations(THEIRS)["theirs"]) + file_patterns({"data_files": ["a/b-*", "c"]})
    assert patterns == ["theirs/*.csv", "a/b-*", "c"]
    assert matches("theirs/x.csv", patterns) and matches("a/b-1", patterns) and matches("c", patterns)
    assert (
        not matches("theirs/y/x.csv", patterns) and not matches("x/a/b-1", patterns) and not matches("d/c", patterns)
    )


def test_a_card_is_given_its_repositorys_name_where_it_loads_the_dataset_and_nowhere_else():
    card = render(example_report() | {"description": 'data = load_dataset("theirs")', "name": 'a "b" \\1'})
    named = name_repository(card, "me/LongABC")
    assert named == render(
        example_report()
        | {"description": 'data = load_dataset("theirs")', "name": 'a "b" \\1', "repo_id": "me/LongABC"}
    )
    assert 'data = load_dataset("me/LongABC", "code", split="train")' in named
    assert name_repository(named, "me/LongABC") == named
    assert name_repository("no card of ours", "me/x") == "no card of ours"
    # every call of the code, and no code that a description shows
    theirs = '## Use\n\n```python\ndata = load_dataset("theirs")\n```\n'
    named = name_repository(render(example_report() | {"description": theirs}), "me/LongABC")
    assert named.count('= load_dataset("me/LongABC", ') == 3 and named.count('load_dataset("theirs")') == 1


@pytest.mark.parametrize("before", ["\ufeff", "\n\n", "  ", "\ufeff\r\n"])
def test_front_matter_may_stand_behind_what_the_hubs_readers_pass_over(before):
    theirs = f"{before}---\nlicense: mit\nextra_gated_prompt: please\n---\nTheir text.\n"
    merged = merge_cards(theirs, OURS)
    assert merged.startswith(before + "---\n") and merge_cards(merged, OURS) == merged
    front = yaml.safe_load(merged.split("---")[1])
    assert front["extra_gated_prompt"] == "please" and "Their text." in merged and merged.count("---\n") == 2


def test_configurations_that_are_given_by_their_names_stay():
    merged = merge_cards("---\nconfigs:\n- theirs\n---\nText\n", OURS)
    assert [c["config_name"] for c in yaml.safe_load(merged.split("---")[1])["configs"]][0] == "theirs"


VALID = {
    "windows' line ends": "license: mit\r\nextra_gated_prompt: please\r\n",
    "a document's end": "license: mit\nextra_gated_prompt: please\n...\n",
    "anchors": "license: &name mit\nlicense_name: *name\ntags: &all [x]\nextra: *all\nextra_gated_prompt: please\n",
    "indented keys": "  license: mit\n  # of theirs\n  extra_gated_prompt: please\n  tags:\n    - x\n",
    "merged keys": "base: &base\n  license: mit\n<<: *base\nextra_gated_prompt: please\n",
    "a key twice": "license: mit\nlicense: x\nextra_gated_prompt: please\n",
    "quoted keys": '"license": mit\n? extra_gated_prompt\n: please\n',
    "dashes in a text": "license: |\n  a\n  ---x\nextra_gated_prompt: please\n",
    "no number": "x: .nan\nextra_gated_prompt: please\n",
    "tags as a text": "tags: x\nextra_gated_prompt: please\n",
    "odd facts": "license: [a, b]\nsize_categories: {a: 1}\nsource_datasets: 5\nextra_gated_prompt: please\n",
    "names that are numbers": "configs:\n- config_name: 5\n  data_files: a.csv\nextra_gated_prompt: please\n",
}
FENCES = [("---", "---"), ("\ufeff---", "---"), ("\n  ---", "---"), ("---  ", "---\t ")]


@pytest.mark.parametrize("fences", FENCES)
@pytest.mark.parametrize("name", VALID)
def test_a_valid_card_is_merged_whatever_its_front_matter_is_written_like(name, fences):
    newline = "\r\n" if "\r\n" in VALID[name] else "\n"
    first, second = (fence.replace("\n", newline) for fence in fences)
    merged = merge_cards(f"{first}{newline}{VALID[name]}{second}{newline}Theirs{newline}", OURS)
    # as the Hub and datasets read it
    values = DatasetCard(merged.removeprefix("\ufeff")).data.to_dict()
    assert values["extra_gated_prompt"] == "please" and values["license"] == "apache-2.0"
    assert "arxiv" in [entry["config_name"] for entry in values["configs"]]
    assert f"Theirs{newline}" in merged and merged.count("\n") == merged.count(newline)
    assert merge_cards(merged, OURS) == merged
    if name == "indented keys":
        assert "  # of theirs\n  extra_gated_prompt: please\n" in merged
    if name == "anchors":
        assert (values["license_name"], values["extra"]) == ("mit", ["x"]), "what an alias stood for stays"


def bombs():
    names = "abcdefghij"
    lists = "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(names))
    merges = "".join(f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(names))
    return {"lists": f"a: &a [x]\n{lists}", "merges": f"a: &a {{x: 1}}\n{merges}", "itself": "a: &a [*a]\n"}


@pytest.mark.parametrize("name", bombs())
def test_aliases_that_stand_for_too_much_are_refused_at_once(name):
    start = time.monotonic()
    with pytest.raises(ValueError, match="of the README.md on the Hub .*its aliases make more than 100,000 values"):
        merge_cards(f"---\n{bombs()[name]}---\n", OURS)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("more", [0, 1])
def test_a_hundred_thousand_values_are_read_and_one_more_is_not(more):
    # the mapping, three keys, and lists of 99 texts, of 998 of these lists, and of 94 texts or 95
    assert 1 + 3 + (1 + 99) + (1 + 998 * 100) + (1 + 94) == 100_000
    a, b, c = ("[" + ", ".join(items) + "]" for items in (["x"] * 99, ["*a"] * 998, ["x"] * (94 + more)))
    theirs = f"---\na: &a {a}\nb: {b}\nc: {c}\n---\n"
    if more:
        with pytest.raises(ValueError, match="its aliases make more than 100,000 values"):
            merge_cards(theirs, OURS)
    else:
        assert front_matter(merge_cards(theirs, OURS))["c"] == ["x"] * 94


def test_what_is_added_stands_as_it_would_by_hand():
    ours = OURS.replace(
        "license: apache-2.0\n", "license: apache-2.0\npretty_name: Naïve 手\nabout: " + "word " * 99 + "\n"
    )
    merged = merge_cards("---\n# theirs alone\n---\nText\n", ours)
    # each on a line of its own, not indented, in our order
    assert merged.startswith("---\n# theirs alone\nlicense: apache-2.0\npretty_name: Naïve 手\nabout: " + "word " * 98)
    assert "\n- config_name: arxiv\n  default: true\n" in merged


@pytest.mark.parametrize(
    ("front", "message"),
    [
        (f"configs: {'x' * 150}", f"list of mappings, not {'x' * 100}: correct"),
        ("configs: 5", "configs must be a list of mappings, not 5"),
        ("configs: [[a]]", "configs must be a list"),
        ("dataset_info: hello", "dataset_info must be a list"),
        ("d: 2020-99-99", "not valid YAML: .*month"),
        ("a: " + "[" * 2000 + "]" * 2000, "not valid YAML"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_a_card_of_odd_facts_is_refused_in_words(front, message):
    with pytest.raises(ValueError, match=message):
        merge_cards(f"---\n{front}\n---\n", OURS)


def test_a_card_that_begins_with_a_line_of_dashes_has_no_front_matter():
    assert merge_cards("-----\nTheirs\n", OURS).endswith(f"-----\nTheirs\n\n{BEGIN}\nnew\n{END}\n")


def test_patterns_reach_through_folders_where_they_say_so():
    assert matches("a/b/c.parquet", ["a/**"]) and matches("a/c.parquet", ["a/**/*.parquet"])
    assert matches("a/b/c.parquet", ["./a/**/c.*"]) and not matches("a/b/c.parquet", ["a/*"])
    assert matches("train-1.csv", ["train-[0-9].csv"]) and not matches(
        "train-1.csv", ["train-[!0-9].csv", "train-??.csv"]
    )
    assert file_patterns({"data_dir": "a/b/"}) == ["a/b/**"]
    assert file_patterns({"data_dir": "a", "data_files": ["./x.csv", "y/*"]}) == ["a/x.csv", "a/y/*"]
    # datasets looks everywhere
    assert file_patterns({"drop_labels": True}) == ["**"]
    with pytest.raises(ValueError, match="must be paths, 5 is not one"):
        file_patterns({"data_files": 5})
