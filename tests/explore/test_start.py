"""The page starts with just what the build kept, whatever limits, ties and chance decided it."""

import json

import numpy as np
import pytest
from datasets import load_dataset

from longattn_hf.explore.session import Session
from longattn_hf.explore.state import BUILT, KEEP_BY, State, ways_to_keep
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.run import build
from tests.support.recipes import text, write_recipe

SHARES = {"fraction": {"book": 0.3, "code": 0.6}}
BUDGETS = {"token_budget": {"book": 200, "code": 333}}
DRAWN = {"temperature": 0.7, "draw_seed": 3}
SUM = {"select_by": {"gzip": 1.0, "length": 2.0}, "combine": "rank"}


@pytest.fixture(scope="module")
def run(tiny_llama, tmp_path_factory):
    """Builds once, and selects from it as often as it is called; returns the folder."""
    folder = tmp_path_factory.mktemp("recipe")
    # lengths in characters are of few values: at every cut some windows tie
    documents = {name: [{"text": text(90, f"{name}{i}")} for i in range(8)] for name in ("book", "code")}
    recipe = write_recipe(folder, tiny_llama, documents, fraction=None, scorers=["longattn", "gzip", "length"])

    def run(output=folder / "out", **settings):
        return build(load_config(recipe, {"output_dir": str(output)} | settings)).folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longattn_hf.report.figures.draw_figures", lambda *given: [])
        yield run


def kept_ids(session, selection):
    return {session.corpus.id_of(row) for row in np.flatnonzero(session.select(selection).kept)}


@pytest.mark.parametrize(
    "settings",
    [
        SHARES,
        SHARES | {"select_by": "length"},
        BUDGETS | DRAWN,
        SHARES | DRAWN | SUM,
        BUDGETS | SUM | {"refuse_overlap": True},
        SHARES | DRAWN | {"select_by": "gzip", "gate": {"longattn": -0.5, "length": 50.0}},
        BUDGETS | {"select_by": "length", "gate": "longattn", "temperature": 2.0, "refuse_overlap": True},
        {"total_token_budget": 700, "select_by": "length"} | DRAWN,
        {"threshold": {"book": 0.5, "code": -0.25}, "gate": {"length": 50.0}},
    ],
    ids=json.dumps,
)
def test_the_page_starts_with_what_the_build_kept(run, settings, tmp_path):
    folder = run(**settings)
    scores = load_dataset(str(folder), "scores", split="train")
    built = {name for name, kept in zip(scores["id"], scores["kept"], strict=True) if kept}
    session = Session(folder)
    start = State.start(session)
    here, there = start.selections(session)
    assert 0 < len(built) < len(scores) and kept_ids(session, here) == built
    ((name, limit),) = here.limit.items()
    assert here.limit == {name: settings[name]}
    if name != "threshold":
        assert there.limit == here.limit
    offered = ways_to_keep(session)
    assert offered == ((*KEEP_BY, BUILT) if start.keep_by == BUILT else KEEP_BY)
    assert (start.keep_by == BUILT) == (isinstance(limit, dict) and name != "threshold")
    # a link comes back to it, and a window that is opened alone stands in it
    assert start.follow({"keep": start.keep_by}, session) == (start, [])
    assert any("; kept (" in sentence for sentence in session.open_window(min(built))["why"])
    # what is saved is a build's, and keeps the same
    (tmp_path / "recipe.yaml").write_text(session.save_recipe(here))
    again = load_config(tmp_path / "recipe.yaml").selection
    assert kept_ids(session, again) == built
    cut = start.follow({"keep": "cut"}, session)[0].selections(session)[0]
    (tmp_path / "cut.yaml").write_text(session.save_recipe(cut))
    again = load_config(tmp_path / "cut.yaml").selection
    assert again.temperature == 0 and kept_ids(session, again) == kept_ids(session, cut)


def test_shares_of_the_released_codes_scores_on_another_builds_scale_are_kept_as_they_were(run, tmp_path):
    settings = {"convention": "reference_code", "scorers": ["longattn"]}
    scale = run(tmp_path / "first", **settings, fraction=0.5) / "statistics.json"
    folder = run(tmp_path / "second", **settings, **SHARES, **DRAWN, statistics=str(scale))
    scores = load_dataset(str(folder), "scores", split="train")
    session = Session(folder, statistics=str(scale))
    here = State.start(session).selections(session)[0]
    assert kept_ids(session, here) == {row["id"] for row in scores if row["kept"]}
    assert here.convention == "reference_code" and here.temperature == 0.7
