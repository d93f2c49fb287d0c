"""The Space that scores somebody's documents: its functions, and its page in a real browser."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset

from longattn_hf import EchoScorer, FarGainScorer
from longattn_hf.baselines import KindScorer

SPACE = Path(__file__).parents[2] / "recipes" / "spaces" / "select_documents"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SPACE / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def space():
    yield load("select_documents")
    del sys.modules["select_documents"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, space):
    """Ten files of Python's own library, a log and a note."""
    folder = tmp_path_factory.mktemp("documents")
    paths = [Path(file) for file in space.python_library()[:10]]
    for path in paths:
        (folder / path.name).write_bytes(path.read_bytes())
    log = [f"2024-03-01T00:00:{n % 60:02} INFO worker-{n % 7} done id={n * 37 % 1000}" for n in range(400)]
    (folder / "a.log").write_text("\n".join(log))
    (folder / "note.txt").write_text("too short")
    return [str(path) for path in sorted(folder.iterdir())]


def test_the_selection_is_the_packages_own(space, files):
    scored = space.score_documents(space.read_documents(files))
    texts = {Path(file).name: Path(file).read_text() for file in files}
    wanted = {name: FarGainScorer(on_error="skip")({"text": text})["far_gain"] for name, text in texts.items()}
    kept = space.select_documents(scored, fraction=0.25)
    shown = dict(zip(kept.table["id"], kept.table["far_gain"].replace({np.nan: None}), strict=True))
    assert shown == pytest.approx(wanted, abs=5.01e-4)
    ranked = sorted((name for name in wanted if wanted[name] is not None), key=wanted.get, reverse=True)
    assert kept.table["id"].tolist() == [*ranked, "note.txt"]
    # a quarter of the eleven with a score, rounded up
    assert set(kept.table.query("kept")["id"]) == set(ranked[:3])
    written = load_dataset("parquet", data_files=kept.file, split="train", cache_dir=str(Path(kept.file).parent))
    assert set(written["id"]) == set(ranked[:3]) and "place" not in written.column_names
    assert kept.best.startswith(f"{ranked[0]}\n\n{texts[ranked[0]][:100]}")
    assert kept.worst.startswith(f"{ranked[-1]}\n\n{texts[ranked[-1]][:100]}")
    assert "3 of 12 documents are kept." in kept.summary and "Of no known kind: 1." in kept.summary
    assert "Without a score: 1, too short (2 words, 512 are the least)." in kept.summary
    assert "default: 3 rows" in kept.publication and "not published (dry run)" in kept.publication


def test_the_gate_leaves_out_what_is_of_no_known_kind_whatever_its_score(space, files):
    scored = space.score_documents(space.read_documents(files), "word_gain")
    kinds = {Path(file).name: KindScorer()({"text": Path(file).read_text()})["kind"] for file in files}
    with_gate = space.select_documents(scored, fraction=1.0).table.query("kept")["id"]
    without = space.select_documents(scored, fraction=1.0, known_kinds=False).table.query("kept")["id"]
    assert "a.log" in set(without) - set(with_gate)
    assert set(without) - set(with_gate) == {name for name in without if kinds[name] < 0}


def test_tables_keep_their_ids_and_categories_which_are_cut_one_by_one(space, files, tmp_path):
    texts = [Path(file).read_text() for file in files if file.endswith(".py")]
    categories = ["a"] * 6 + ["b"] * (len(texts) - 6)
    rows = Dataset.from_dict({"id": [7] * len(texts), "body": texts, "category": categories})
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.to_json(tmp_path / "rows.jsonl")
    for name in ("rows.parquet", "rows.jsonl"):
        documents = space.read_documents([str(tmp_path / name)], "body")
        kept = space.select_documents(space.score_documents(documents, "echo"), 0.5, known_kinds=False).table
        echoes = [EchoScorer()({"text": text})["echo"] for text in texts]
        for category in "ab":
            of_category = sorted((e for e, c in zip(echoes, categories, strict=True) if c == category), reverse=True)
            best = kept[(kept["category"] == category) & kept["kept"]]["echo"].tolist()
            assert best == pytest.approx(of_category[: -(-len(of_category) // 2)], abs=5.01e-4)


def test_what_cannot_be_read_is_refused_with_the_reason(space, files, tmp_path, monkeypatch):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    Dataset.from_dict({"text": ["x"]}).to_json(tmp_path / "rows.jsonl")
    for given, reason in {
        (): "Choose files first",
        (str(tmp_path / "latin.txt"),): "latin.txt is no UTF-8 text: .* at byte 3",
        (files[0], str(tmp_path / "rows.jsonl")): "Some files are tables and others are text",
    }.items():
        with pytest.raises(ValueError, match=reason):
            space.read_documents(given)
    with pytest.raises(ValueError, match="There is no column 'body'; the columns are text"):
        space.read_documents([str(tmp_path / "rows.jsonl")], "body")
    monkeypatch.setattr(space, "MOST_DOCUMENTS", 3)
    with pytest.raises(ValueError, match="There are 12 documents; from 1 to 3"):
        space.read_documents(files)


def test_nothing_kept_is_no_file(space, tmp_path):
    (tmp_path / "note.txt").write_text("too short")
    kept = space.select_documents(space.score_documents(space.read_documents([str(tmp_path / "note.txt")])))
    assert kept.file is None and kept.best == kept.worst == kept.publication == ""
    assert kept.summary.startswith("0 of 1 documents are kept.")


def test_the_page_scores_what_is_uploaded_and_selects_again_without_scoring(space, files, browser):
    pytest.importorskip("gradio", reason="no Gradio: pip install 'longattn_hf[explore]'")
    demo = load("app").demo
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    try:
        page.goto(address)
        page.locator("input[type=file][multiple]").set_input_files(files)
        # the name's end stands apart
        page.get_by_text("note", exact=True).wait_for()
        page.get_by_role("button", name="Score", exact=True).click()
        page.get_by_text("6 of 12 documents are kept.").wait_for(timeout=60_000)
        best = page.get_by_label("The best", exact=True).input_value()
        assert any(best.startswith(Path(file).name) for file in files)
        share = page.get_by_role("spinbutton", name="Share to keep")
        share.fill("1")
        share.press("Tab")
        page.get_by_text("10 of 12 documents are kept.").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Those that are kept, as Parquet").click()
        assert download.value.suggested_filename == "kept.parquet"
        assert pq.read_table(download.value.path()).num_rows == 10
    finally:
        page.close()
        demo.close()
        del sys.modules["app"]
