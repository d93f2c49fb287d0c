"""Tokenizers read from GGUF files split text as the model was trained to."""

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from longattn_hf import WindowDocuments
from longattn_hf.model.tokenizer import load_tokenizer, tokenise
from longattn_hf.pipeline.demo_corpus import demo_documents
from tests.pipeline.test_build import SMOLLM2, needs_smollm2
from tests.support.tiny import write_gguf

TEXT = "a1234 I'VE we've\n\n x"


@pytest.mark.parametrize(
    ("split", "pieces"),
    [
        # worked out by hand from llama.cpp's expressions
        ("gpt-2", ["a", "1234", " I", "'", "VE", " we", "'ve", "\n\n", " x"]),
        ("smollm", ["a", "1", "2", "3", "4", " I", "'", "VE", " we", "'ve", "\n\n", " x"]),
        ("llama-bpe", ["a", "123", "4", " I", "'VE", " we", "'ve", "\n\n", " x"]),
        ("qwen2", ["a", "1", "2", "3", "4", " I", "'VE", " we", "'ve", "\n\n", " x"]),
    ],
)
def test_the_split_that_a_gguf_file_names_is_applied(tiny_llama, tmp_path, split, pieces):
    tokenizer = load_tokenizer(str(write_gguf(tmp_path / "x.gguf", tiny_llama, split=split)))
    found = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)
    assert [TEXT[start:end] for _, (start, end) in found] == pieces
    assert tokenizer.decode(tokenise(tokenizer, TEXT)["input_ids"]) == TEXT


def test_a_split_that_is_not_known_is_refused_by_name_wherever_ids_are_made(tiny_llama, tmp_path):
    path = str(write_gguf(tmp_path / "x.gguf", tiny_llama, split="tekken"))
    with pytest.raises(ValueError, match="splits text as 'tekken' .tokenizer.ggml.pre., which is not known here"):
        load_tokenizer(path)
    with pytest.raises(ValueError, match="'tekken'"):
        WindowDocuments(tokenizer=path, window_tokens=4)({"text": [TEXT]})


def test_a_gguf_file_that_names_no_split_is_read_as_before(tiny_llama, tmp_path):
    tokenizer = load_tokenizer(str(write_gguf(tmp_path / "x.gguf", tiny_llama)))
    assert tokenise(tokenizer, TEXT)["input_ids"] == tokenise(load_tokenizer(str(tiny_llama)), TEXT)["input_ids"]


@needs_smollm2
def test_the_embedded_models_ids_are_those_of_its_vocabulary_with_its_own_splits():
    tokenizer = load_tokenizer(SMOLLM2)
    # SmolLM2's tokenizer.json: each digit by itself, then GPT-2's expression
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    digits = pre_tokenizers.Digits(individual_digits=True)
    own.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    for document in demo_documents():
        ids = tokenise(tokenizer, document["text"])["input_ids"]
        assert ids == own.encode(document["text"], add_special_tokens=False).ids, document["id"]
