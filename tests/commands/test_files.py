"""`longattn score` and `longattn select` on files of anybody's rows."""

import gzip
import json
import shlex
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset

from longattn_hf.__main__ import main
from longattn_hf.commands.tables import read_notes, write_rows

ROWS = [
    {"id": "a", "text": "abab" * 8},
    {"id": "b", "text": "no two words of this line are alike"},
    {"id": "c", "text": None},
    {"id": "d", "text": "é"},
]


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def read(path):
    return load_dataset("parquet", data_files=str(path), split="train").to_list()


def test_each_row_gets_its_score_or_the_reason_why_not(documents, tmp_path):
    main(["score", str(documents), "--scorer", "length", "-o", str(tmp_path / "out.parquet")])
    rows = read(tmp_path / "out.parquet")
    assert [row["length"] for row in rows] == [32.0, 35.0, None, 1.0]
    assert [row["skip_reason"] for row in rows] == [None, None, "missing", None]
    # a quarter of the UTF-8 bytes, rounded up
    assert [row["num_tokens"] for row in rows] == [8, 9, 0, 1]
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]


def test_rows_without_a_score_are_counted_by_reason_and_not_by_their_own_length(tmp_path, capsys):
    texts = ["one two three", "four five", None, " ".join(map(str, range(600)))]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    # the scorer that the pages recommend is the one that nobody has to name
    main(["score", str(path), "-o", str(tmp_path / "out.parquet")])
    said = capsys.readouterr().out
    assert "4 rows, scores far_gain" in said
    assert "1 without a score: missing" in said and "2 without a score: too short (512 words are the least)" in said
    assert [row["far_gain"] is None for row in read(tmp_path / "out.parquet")] == [True, True, True, False]


@pytest.mark.parametrize("values", [["a text", ["two", "texts"]], [[1, 2], [3]], [1.5, None]], ids=str)
@pytest.mark.parametrize("tokenizer", [True, False])
def test_what_is_not_text_is_a_row_without_a_score_like_any_other(tmp_path, tiny_llama, capsys, values, tokenizer):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": value}) + "\n" for value in values))
    words = ["--tokenizer", str(tiny_llama)] if tokenizer else []
    main(["score", str(path), "--scorer", "length", "-o", str(tmp_path / "out.parquet"), *words])
    others = sum(not isinstance(value, str | None) for value in values)
    assert f"{others} without a score: not text" in capsys.readouterr().out
    rows = read(tmp_path / "out.parquet")
    assert [row["length"] is None for row in rows] == [not isinstance(value, str) for value in values]
    assert [row["num_tokens"] > 0 for row in rows] == [isinstance(value, str) for value in values]


@pytest.mark.parametrize("order", [["far_gain", "length"], ["length", "far_gain"], ["far_gain"]])
def test_a_row_has_each_score_whatever_another_scorer_makes_of_it(tmp_path, order):
    texts = ["one two three", None, " ".join(map(str, range(600)))]
    (path := tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    scored = str(tmp_path / "scored.parquet")
    main(["score", str(path), "--scorer", *order, "-o", scored])
    if "length" not in order:
        main(["score", scored, "--scorer", "length", "-o", str(tmp_path / "more.parquet")])
        scored = tmp_path / "more.parquet"
    rows = read(scored)
    assert [row["length"] for row in rows] == [13.0, None, 2289.0]
    assert [row["far_gain"] is None for row in rows] == [True, True, False]
    assert [row["skip_reason"] for row in rows] == ["too short (3 words, 512 are the least)", "missing", None]


@pytest.mark.parametrize("scorer", ["length", "longattn"])
def test_windows_of_a_column_of_any_name_are_scored(tmp_path, tiny_llama, scorer):
    texts = [" ".join(map(str, range(start, start + 60))) for start in (0, 100)]
    Dataset.from_dict({"body": texts, "text": ["x", "y"]}).to_parquet(tmp_path / "d.parquet")
    words = ["--text_column", "body", "--window_tokens", "16", "--model", str(tiny_llama), "--scorer", scorer]
    main(["score", str(tmp_path / "d.parquet"), *words, "-o", str(tmp_path / "out.parquet")])
    rows = read(tmp_path / "out.parquet")
    assert {row["num_tokens"] for row in rows} == {16} and all(row["text"] in texts[0] + texts[1] for row in rows)
    if scorer == "length":
        assert [row["length"] for row in rows] == [len(row["text"]) for row in rows]
    else:
        assert all(row["dependency_strength"] > 0 for row in rows)


def test_a_reason_goes_with_what_it_was_the_reason_of(tmp_path, tiny_llama):
    texts = ["one two three " * 40, " ".join(map(str, range(600)))]
    Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "d.parquet")
    scored, again = str(tmp_path / "scored.parquet"), str(tmp_path / "again.parquet")
    main(["score", str(tmp_path / "d.parquet"), "--scorer", "far_gain", "-o", scored])
    assert [row["skip_reason"] is None for row in read(scored)] == [False, True]
    # windows are cut of a document that far_gain finds too short
    words = ["--window_tokens", "16", "--tokenizer", str(tiny_llama), "--scorer", "length"]
    main(["score", scored, *words, "-o", again])
    rows = read(again)
    assert {row["text"][:3] for row in rows} >= {"one"} and {row["skip_reason"] for row in rows} == {None}
    # what lacked a score and has it now has no reason any more
    rows = load_dataset("parquet", data_files=scored, split="train")
    rows = rows.remove_columns("text").add_column("text", [texts[1], texts[1]])
    write_rows(rows, scored, read_notes([scored]))
    main(["score", scored, "--scorer", "far_gain", "-o", again])
    assert [row["skip_reason"] for row in read(again)] == [None, None]


def test_a_selection_ranks_by_the_score_that_the_file_was_scored_by(documents, tmp_path, capsys):
    main(["score", str(documents), "--scorer", "length", "-o", str(tmp_path / "out.parquet")])
    main(["select", str(tmp_path / "out.parquet"), "--token_budget", "9"])
    assert [row["id"] for row in read(tmp_path / "out-kept.parquet")] == ["b"]
    assert "1 of 4 rows kept by length, 9 tokens (estimated as one a 4 bytes)" in capsys.readouterr().out


def test_tokens_once_estimated_stay_so_and_the_first_score_still_ranks(documents, tmp_path, capsys):
    main(["score", str(documents), "--scorer", "length", "-o", str(tmp_path / "one.parquet")])
    main(["score", str(tmp_path / "one.parquet"), "--scorer", "random", "-o", str(tmp_path / "two.parquet")])
    assert "4 rows, scores length, random; tokens: estimated as one a 4 bytes" in capsys.readouterr().out
    main(["select", str(tmp_path / "two.parquet"), "--token_budget", "9"])
    assert [row["id"] for row in read(tmp_path / "two-kept.parquet")] == ["b"]
    assert "1 of 4 rows kept by length, 9 tokens (estimated as one a 4 bytes)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("run.a.parquet", "run.a-kept.parquet"),
        ("run.b.jsonl.gz", "run.b-kept.parquet"),
        (".hid.parquet", ".hid-kept.parquet"),
        ("c.ndjson", "c-kept.parquet"),
    ],
)
def test_each_file_s_selection_has_a_name_of_its_own(tmp_path, name, kept):
    rows = Dataset.from_dict({"text": ["a", "b"], "x": [1.0, 2.0]})
    path = tmp_path / name
    rows.to_parquet(path) if path.suffix == ".parquet" else rows.to_json(path, compression="infer")
    main(["select", str(path), "--score", "x", "--fraction", "0.5"])
    assert [row["text"] for row in read(tmp_path / kept)] == ["b"]
    assert {file.name for file in tmp_path.iterdir()} == {name, kept}


@pytest.mark.parametrize("command", ["score", "select --fraction 0.5 --score x", "explain --model m"])
def test_no_program_writes_over_what_it_reads(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Dataset.from_dict({"text": ["a", "b"], "x": [1.0, 2.0]}).to_parquet("rows.parquet")
    Path("linked.parquet").symlink_to("rows.parquet")
    before = Path("rows.parquet").read_bytes()
    name, *words = shlex.split(command)
    for output in ("rows.parquet", "./rows.parquet", str(tmp_path / "rows.parquet"), "linked.parquet"):
        with pytest.raises(SystemExit, match=f"{name}: .*{Path(output).name} is a file that is read"):
            main([name, "rows.parquet", *words, "-o", output])
    assert Path("rows.parquet").read_bytes() == before and Path("linked.parquet").is_symlink()


def test_an_explanation_has_a_name_of_its_own_and_takes_no_other_page_s_place(tmp_path, tiny_llama, capsys):
    words = ["--model", str(tiny_llama)]
    for name in ("article.html", "chap.2.txt", "chap.2.html"):
        (tmp_path / name).write_text("<p>one two three four five</p>" * 4)
    main(["explain", str(tmp_path / "article.html"), *words])
    main(["explain", str(tmp_path / "chap.2.txt"), *words])
    pages = [tmp_path / "article-explained.html", tmp_path / "chap.2-explained.html"]
    assert capsys.readouterr().out.split() == [*map(str, pages)]
    assert all("LongAttn" in page.read_text() for page in pages)
    assert (tmp_path / "article.html").read_text() == (tmp_path / "chap.2.html").read_text()
    # a page of its own is written anew, and one of somebody else's is not
    main(["explain", str(tmp_path / "chap.2.txt"), *words])
    with pytest.raises(SystemExit, match="explain: .*chap.2.html is there, and no page of this program's"):
        main(["explain", str(tmp_path / "chap.2.txt"), *words, "-o", str(tmp_path / "chap.2.html")])
    assert "LongAttn" not in (tmp_path / "chap.2.html").read_text()


def test_for_programs_results_are_one_object_and_quiet_leaves_nothing_else(documents, tmp_path, capsys):
    scored, kept = str(tmp_path / "out.parquet"), str(tmp_path / "out-kept.parquet")
    main(["score", str(documents), "--scorer", "length", "-o", scored, "--json"])
    counted = "estimated as one a 4 bytes"
    facts = {"output": scored, "rows": 4, "num_tokens": counted, "scores": ["length"], "skipped": {"missing": 1}}
    assert json.loads(capsys.readouterr().out) == facts
    main(["select", "--json", scored, "--quiet", "--token_budget", "9"])
    shown = capsys.readouterr()
    del facts["skipped"]
    facts |= {"output": kept, "kept": 1, "score": "length", "tokens": 9}
    assert json.loads(shown.out) == facts and shown.err == ""


def test_a_selection_by_weighted_scores_sums_their_z_scores(tmp_path):
    # z-scores of x: -1, 1, -1, 1; of y: 1, 1, -1, -1; x + y / 2 therefore: -.5, 1.5, -1.5, .5
    rows = Dataset.from_dict({"id": list("abcd"), "text": list("wxyz"), "x": [0, 2, 0, 2], "y": [5.0, 5.0, 3.0, 3.0]})
    rows.to_parquet(tmp_path / "scored.parquet")
    words = ["--score", "{x: 1, y: 0.5}", "--fraction", "0.5", "-o", str(tmp_path / "kept.parquet")]
    main(["select", str(tmp_path / "scored.parquet"), *words])
    assert [row["id"] for row in read(tmp_path / "kept.parquet")] == ["b", "d"]


def test_quotas_hold_within_each_category_of_a_compressed_file(tmp_path):
    lines = [{"text": "x" * n, "category": "even" if n % 2 == 0 else "odd"} for n in range(1, 7)]
    path = tmp_path / "lines.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    main(["score", str(path), "--scorer", "length", "--output", str(tmp_path / "s.parquet")])
    main(
        [
            "select",
            str(tmp_path / "s.parquet"),
            "--fraction",
            "{even: 0.3, odd: 0.6}",
            "-o",
            str(tmp_path / "k.parquet"),
        ]
    )
    assert sorted(len(row["text"]) for row in read(tmp_path / "k.parquet")) == [3, 5, 6]


def test_the_paper_s_scores_are_selected_on_their_category_s_scale(tiny_llama, tmp_path):
    Dataset.from_dict({"text": [f"word{n} " * 200 for n in range(6)]}).to_parquet(tmp_path / "d.parquet")
    words = ["--scorer", "longattn", "--model", str(tiny_llama), "--window_tokens", "32", "--category", "all"]
    main(["score", str(tmp_path / "d.parquet"), *words, "-o", str(tmp_path / "s.parquet")])
    scored = read(tmp_path / "s.parquet")
    assert len(scored) > 6 and {row["num_tokens"] for row in scored} == {32}
    main(
        [
            "select",
            str(tmp_path / "s.parquet"),
            "--fraction",
            "0.25",
            "--alpha",
            "0",
            "-o",
            str(tmp_path / "k.parquet"),
        ]
    )
    kept = read(tmp_path / "k.parquet")
    strengths = sorted((row["dependency_strength"] for row in scored), reverse=True)
    assert sorted((row["dependency_strength"] for row in kept), reverse=True) == strengths[: len(kept)]
    assert len(kept) == -(-len(scored) // 4)


def test_files_without_a_row_are_passed_over_and_none_with_one_is_refused(documents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nothing.jsonl").touch()
    Path("blank.jsonl").write_text("\n \n")
    Path("blank.jsonl.gz").write_bytes(gzip.compress(b"\n"))
    Path("list.json").write_text("[]")
    for name in ("nothing.jsonl", "blank.jsonl", "blank.jsonl.gz", "list.json"):
        with pytest.raises(SystemExit, match=f"score: There is no row in {name}"):
            main(["score", name, "--scorer", "length", "-o", "out.parquet"])
        main(["score", name, str(documents), "--scorer", "length", "-o", "scored.parquet"])
        assert [row["id"] for row in read("scored.parquet")] == ["a", "b", "c", "d"]
    main(["select", "scored.parquet", "--fraction", "0", "-o", "none.parquet"])
    with pytest.raises(SystemExit, match="score: There is no row in none.parquet"):
        main(["score", "none.parquet", "--scorer", "length", "-o", "out.parquet"])
    main(["select", "none.parquet", "scored.parquet", "--fraction", "1", "-o", "all.parquet"])
    assert [row["id"] for row in read("all.parquet")] == ["a", "b", "d"]
    # a pattern is the files that it stands for, also where these say something of themselves
    main(["score", "s*d.parquet", "--scorer", "gzip", "-o", "more.parquet"])
    assert read_notes(["more.parquet"])["scores"] == ["length", "gzip_ratio"]


@pytest.mark.parametrize("lengths", [[8, None], ["8", "9"], [None, None]], ids=str)
def test_rows_whose_tokens_nobody_counted_are_kept_without_a_count(tmp_path, capsys, lengths):
    Dataset.from_dict({"text": ["a", "b"], "x": [1.0, 2.0], "num_tokens": lengths}).to_parquet(tmp_path / "s.parquet")
    words = ["select", str(tmp_path / "s.parquet"), "--score", "x", "-o", str(tmp_path / "k.parquet")]
    main([*words, "--fraction", "1", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["kept"] == 2 and facts["tokens"] is None
    (tmp_path / "k.parquet").unlink()
    with pytest.raises(SystemExit, match="select: Column 'num_tokens' "):
        main([*words, "--token_budget", "9"])
    assert not (tmp_path / "k.parquet").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("score absent.jsonl -o o.parquet", "score: There is no such file.*absent.jsonl"),
        ("score a.csv -o o.parquet", r"score: a.csv is no file of a known kind: .*\.parquet"),
        ("score DOCUMENTS -o o.csv", "score: o.csv is to be written as Parquet"),
        ("score DOCUMENTS --scorer ecko -o o.parquet", "score: There is no scorer 'ecko'. Did you mean 'echo'"),
        ("score DOCUMENTS --scorer longattn -o o.parquet", "score: The scorer 'longattn' needs model"),
        ("score DOCUMENTS --text_column body -o o.parquet", "score: There is no column 'body'; .*id, text"),
        ("score DOCUMENTS --window_tokens 8 -o o.parquet", "score: window_tokens needs a tokenizer"),
        (
            "score DOCUMENTS --settings '{sed: 1}' --scorer random -o o.parquet",
            "no setting 'sed'. Did you mean 'seed'",
        ),
        (
            "score DOCUMENTS --on_error Skip -o o.parquet",
            "on_error='Skip' in the command line must be 'raise' or 'skip'",
        ),
        ("score DOCUMENTS --scorer length --on_error raise -o o.parquet", "score: Row 2 .* is missing"),
        ("select DOCUMENTS --fraction 0.5", "select: Nothing says which column ranks; name it .*id, text"),
        ("select DOCUMENTS --score text --fraction 0.5", "select: Column 'text' is string, and windows are ranked by"),
        ("score DOCUMENTS --batch_size 0 -o o.parquet", "score: batch_size=0 must be at least 1"),
        ("select DOCUMENTS --score nope --fraction 1", "select: There is no column 'nope'; the columns are id, text"),
        ("select DOCUMENTS --score id --by nope --fraction 1", "There is no column 'nope'; the columns are id, text"),
        ("select DOCUMENTS --score id --gate '{nope: 0}' --fraction 1", "There is no column 'nope'; .* id, text"),
        (
            "select DOCUMENTS --score id --fraction 1 --statistics s.json",
            "statistics would read LongAttn's scores, and depend",
        ),
        (
            "select DOCUMENTS --score id --fraction 1 --convention paper",
            "convention would read LongAttn's scores.* id, text",
        ),
        ("select DOCUMENTS", "select: Give exactly one of threshold, fraction, token_budget and total_token_budget"),
        ("scor", "longattn: unknown command 'scor'. Did you mean 'score'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(words, message, documents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as refused:
        main(shlex.split(words.replace("DOCUMENTS", str(documents))))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("o.*"))
