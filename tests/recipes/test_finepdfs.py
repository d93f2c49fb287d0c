"""The one-file recipe, run against a repository of FinePDFs' columns on the local Hub."""

import io
import re
import tomllib

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi

from longattn_hf.pipeline.config import load_config
from recipes import finepdfs
from tests.support.recipes import text

DATASET = "HuggingFaceFW/finepdfs"
CARD = """---
configs:
- config_name: eng_Latn
  data_files: data/eng_Latn/train/*.parquet
- config_name: deu_Latn
  data_files: data/deu_Latn/train/*.parquet
---
"""


def parquet(rows):
    buffer = io.BytesIO()
    Dataset.from_list(rows).to_parquet(buffer)
    return buffer.getvalue()


def document(number, words):
    return {
        "text": text(words, f"d{number}"),
        "id": f"<urn:uuid:{number}>",
        "dump": "CC-MAIN-2025-05",
        "token_count": words,
        "page_average_lid_score": 0.99,
        "extractor": "docling" if number % 2 else "rolmOCR",
        "page_ends": [words // 2, words],
    }


@pytest.fixture
def hub_of_pdfs(hub):
    rows = [document(n, 40 + n if n % 3 else 5) for n in range(20)]
    files = {f"data/eng_Latn/train/000_0000{n}.parquet": parquet(rows[n::2]) for n in range(2)}
    files["data/deu_Latn/train/000_00000.parquet"] = parquet([document(99, 3)])
    hub.create(DATASET, files | {"README.md": CARD.encode()})
    return hub


@pytest.fixture
def words(tiny_llama, tmp_path):
    given = {"window_tokens": 32, "model": tiny_llama, "scorers": "length", "fraction": 0.5, "max_documents": 9}
    return [w for n, v in given.items() for w in (f"--{n}", str(v))] + ["--output_dir", str(tmp_path / "pdfs")]


def test_long_documents_are_scored_selected_and_published(hub_of_pdfs, words, tmp_path, capsys):
    commit = HfApi().dataset_info(DATASET).sha
    finepdfs.main([*words, "--repo", "me/long-pdfs"])
    (file,) = (tmp_path / "pdfs-source").glob("*.parquet")
    rows = load_dataset("parquet", data_files=str(file), split="train")
    assert len(rows) == 9 and min(rows["token_count"]) >= 41
    published = load_dataset("me/long-pdfs", "eng_Latn", split="train")
    kept = load_dataset(str(tmp_path / "pdfs"), "eng_Latn", split="train")
    assert published.to_dict() == kept.to_dict()
    assert {*kept["license"]} == {"ODC-By-1.0"} and {*kept["source"]} == {f"{DATASET}@{commit}"}
    assert {*kept["doc_id"]} <= {*rows["id"]} and {*kept["extractor"]} <= {"docling", "rolmOCR"}
    # what the run leaves is a configuration for `longattn estimate`
    assert load_config(tmp_path / "pdfs-source" / "build.yaml").window_tokens == 32
    assert "me/long-pdfs" in capsys.readouterr().out
    # the same command goes on with the same documents, whatever is pushed since
    hub_of_pdfs.push(hub_of_pdfs.repos["dataset", DATASET], {"data/eng_Latn/train/000_00000.parquet": b"changed"})
    finepdfs.main(words)
    assert "nothing published; --repo owner/name" in capsys.readouterr().out


def test_the_demo_asks_no_network(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(finepdfs, "fetch", lambda *_: pytest.fail("the demo fetches nothing"))
    few = [{"id": f"d{n}", "text": text(300, n), "category": "python_source", "source": "s"} for n in range(3)]
    monkeypatch.setattr("longattn_hf.pipeline.demo_corpus.demo_documents", lambda: few)
    demo = {"name": "python_source", "path": "demo"}
    monkeypatch.setattr(
        finepdfs, "load_config", lambda path, values: load_config(path, values | {"sources": [source(demo)]})
    )
    finepdfs.main([*words, "--demo"])
    assert "nothing published" in capsys.readouterr().out
    assert (tmp_path / "pdfs" / "README.md").exists() and not (tmp_path / "pdfs-source").exists()


def source(values):
    return {"category": values["name"], "path": values["path"]}


def test_what_cannot_be_built_is_one_line(hub_of_pdfs, words, capsys):
    for wrong, said in (
        (["--language", "deu_Latn"], "has no document of 32 tokens"),
        (["--max_documents", "0"], "max_documents=0 must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            finepdfs.main([*words, *wrong])
        assert said in capsys.readouterr().err


def test_the_script_names_what_it_needs():
    text_of = open(finepdfs.__file__, encoding="utf-8").read()
    header = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", text_of)[1]
    needs = tomllib.loads(re.sub("^# ", "", header, flags=re.MULTILINE))
    assert needs == {"requires-python": ">=3.11", "dependencies": ["longattn_hf[build]"]}
    assert len(text_of.splitlines()) <= 130
