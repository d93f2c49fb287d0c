import importlib.resources
import importlib.util
import re
from collections import Counter, defaultdict
from importlib.metadata import metadata
from itertools import islice

import pytest

from longattn_hf.pipeline import demo_corpus
from longattn_hf.pipeline.demo_corpus import CHARACTER_LIMITS, LICENSES, demo_documents
from longattn_hf.windows import cut_windows

WINDOW_TOKENS = 8192


@pytest.fixture(scope="module")
def documents():
    return list(demo_documents())


@pytest.fixture(scope="module")
def token_counts(documents, smollm2):
    encoded = smollm2.load_tokenizer()(
        [document["text"] for document in documents], add_special_tokens=False, verbose=False
    )
    return [len(ids) for ids in encoded["input_ids"]]


def test_each_document_says_what_it_is_and_under_which_licence(documents):
    assert len({document["id"] for document in documents}) == len(documents)
    for document in documents:
        assert list(document) == ["id", "text", "category", "source", "license"]
        assert all(isinstance(value, str) and value for value in document.values()), document["id"]
        package, version, path = re.fullmatch(r"([\w-]+)==([^:]+):(\S+)", document["source"]).groups()
        assert version == metadata(package)["Version"]
        assert document["id"] == f"{document['category']}/{path}"


def test_the_licences_written_down_are_the_ones_the_packages_declare():
    for package, license_ in LICENSES.items():
        said = metadata(package)
        family = license_.split("-")[0]
        declared = [said["License-Expression"], said["License"], *said.get_all("Classifier", [])]
        assert any(family in text for text in declared if text), f"{package} does not declare {license_}"


def test_a_second_reading_yields_the_same_documents_in_the_same_order(documents):
    # a category of packages' files, and the beginning of the next
    assert list(islice(demo_documents(), 16)) == documents[:16]


def test_every_document_fills_a_window_and_the_categories_are_balanced(documents, token_counts):
    windows = Counter()
    for document, count in zip(documents, token_counts, strict=True):
        assert count >= WINDOW_TOKENS, document["source"]
        windows[document["category"]] += len(cut_windows(count, WINDOW_TOKENS))
    assert set(windows) == set(CHARACTER_LIMITS)
    assert Counter(document["category"] for document in documents) == dict.fromkeys(CHARACTER_LIMITS, 14)
    # enough for Z-scores within a category, few enough for a demo of minutes
    assert min(windows.values()) >= 24
    assert sum(windows.values()) <= 110


def test_no_document_repeats_another(documents):
    paragraphs = defaultdict(set)
    for document in documents:
        for paragraph in document["text"].split("\n\n"):
            if len(paragraph) > 400:
                paragraphs[paragraph].add(document["id"])
    shared = Counter(id_ for ids in paragraphs.values() if len(ids) > 1 for id_ in ids)
    total = Counter(id_ for ids in paragraphs.values() for id_ in ids)
    assert all(shared[id_] < 0.1 * total[id_] for id_ in total), shared


def test_the_mathematical_documents_are_rich_in_latex_and_the_messages_are_not(documents):
    density = defaultdict(list)
    for document in documents:
        marks = re.findall(r"\\[a-zA-Z]{2,}|:math:|\$", document["text"])
        density[document["category"]].append(1000 * len(marks) / len(document["text"]))
    # the messages hold dollar signs
    assert max(density["presidential_messages"]) < 1.2 < min(density["mathematical_docs"])


def test_a_document_ends_at_a_blank_line_of_its_original_within_the_limit(documents):
    for document in documents:
        assert len(document["text"]) <= CHARACTER_LIMITS[document["category"]]
        if document["category"] == "presidential_messages":
            package, path = document["source"].split("==")[0], document["source"].split(":")[1]
            original = importlib.resources.files(package).joinpath(*path.split("/")[1:]).read_text(encoding="utf-8")
            assert original.strip().startswith(document["text"].rstrip())
            assert original.strip()[len(document["text"]) - 1 :].startswith("\n\n")


def test_documentation_is_the_long_strings_of_a_module_in_line_order():
    (module,) = demo_corpus._files("torch", "torch/linalg/__init__.py", ".py")
    text = demo_corpus._documentation(module)
    assert text.index("Computes the Cholesky decomposition") < text.index("Computes the QR decomposition")
    assert "def " not in text.split("Computes the QR decomposition")[0].split(">>>")[0]


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(demo_corpus, "PYTHON_SOURCE", {"no_such_package": "no-such-package"})
    with pytest.raises(ValueError, match=r"no-such-package.*pip install 'longattn_hf\[demo\]'"):
        next(demo_documents())


def test_a_package_without_the_expected_path_is_named_with_its_version(monkeypatch):
    monkeypatch.setattr(demo_corpus, "PYTHON_SOURCE", {"sympy/no_such_folder": "sympy"})
    with pytest.raises(ValueError, match=rf"sympy=={re.escape(metadata('sympy')['Version'])} brings no sympy/no_such"):
        next(demo_documents())
