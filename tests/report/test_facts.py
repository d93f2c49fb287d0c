"""A report's JSON: what it holds, what it leaves out, and what it names where something is amiss."""

import json
from dataclasses import FrozenInstanceError

import pytest

from longattn_hf.report.facts import Report
from longattn_hf.report.parts import Spread
from tests.support.reports import example_report, unrun_report


def test_a_report_comes_back_from_its_json_and_the_json_is_the_same_for_the_same_facts():
    report = Report.from_dict(example_report() | {"description": "Naïve 手"})
    text = report.to_json()
    assert Report.from_json(text) == Report.from_json(text.encode()) == report and report.to_json() == text
    # a line for each fact, one blank for each level, and letters as they are
    assert text.startswith('{\n "name": "longabc-demo",\n') and text.endswith("\n}\n") and "Naïve 手" in text
    assert json.loads(text) == report.to_dict()


def test_what_was_not_run_and_what_is_absent_is_left_out():
    ran = Report.from_dict(example_report()).to_dict()
    assert {"recipe", "page", "repo_id", "not_run"}.isdisjoint(ran) and ran["settings"]["threshold"] is None
    # of a run, None is an answer
    assert ran["agreement"]["categories"]["prose"]["spearman"] is None and ran["model"]["revision"] is None
    report = Report.from_dict(unrun_report() | {"page": "report.html", "repo_id": "me/x", "recipe": {"name": "x"}})
    planned = report.to_dict()
    assert planned["not_run"] is True and (planned["page"], planned["repo_id"]) == ("report.html", "me/x")
    assert {"agreement", "examples", "figures", "software"}.isdisjoint(planned)
    assert planned["settings"]["threshold"] is None and planned["categories"] == {"arxiv": {}, "book": {}}
    assert "documents" not in planned["sources"][0] and "num_rows" not in planned["configs"]["code"]
    assert Report.from_dict(planned) == report
    assert report.run_categories == {} and [*Report.from_dict(example_report()).run_categories] == ["code", "prose"]


def changed(path, value):
    report = holder = example_report()
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    return report


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sources", 1, "documents"), None, "The report lacks sources[1].documents, and the card states it; build"),
        (("model", "num_heads"), None, "The report lacks model.num_heads, and"),
        (("configs", "code", "num_rows"), None, "The report lacks configs.code.num_rows, and"),
        (("figures",), None, "The report lacks figures, and"),
        (("categories", "code"), {}, "The report lacks categories.code, and"),
        (("settings", "alpha"), None, "The report lacks settings.alpha, and"),
        (("name",), "", "The report says name is '', and the card states it; build the report again."),
        (("language", 1), "", "The report says language[1] is '', and"),
        (("sources", 1, "windows"), "many", "The report says sources[1].windows is 'many', and"),
        (("model",), None, "The report says model is None, and"),
        # of several, the first
        (("sources", 1), {"source": "", "license": ""}, "The report says sources[1].source is '', and"),
    ],
)
def test_a_fact_that_is_amiss_is_named_by_its_place(path, value, message):
    with pytest.raises(ValueError) as refusal:
        Report.from_dict(changed(path, value))
    assert str(refusal.value).startswith(message)


def test_a_fact_that_is_not_there_is_named_by_its_place():
    report = example_report()
    del report["examples"]["code"]["highest"][0]["id"]
    with pytest.raises(ValueError, match=r"^The report lacks examples\.code\.highest\[0\]\.id, and"):
        Report.from_dict(report)
    for text in ("[]", "3", '"text"'):
        with pytest.raises(ValueError, match="A report is a JSON mapping, and this is (list|int|str)"):
            Report.from_json(text)


def test_a_report_of_a_later_version_is_read_and_none_is_changed():
    later = example_report() | {"new": 1, "name": "x"}
    later["categories"]["code"]["new"] = 2
    report = Report.from_dict(later)
    assert report.name == "x" and not hasattr(report, "new")
    with pytest.raises(FrozenInstanceError):
        report.name = "y"
    with pytest.raises(ValueError, match="Unexpected positional argument"):
        Spread(0.0, 0.0, 0.0, 0.0)
