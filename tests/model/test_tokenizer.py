"""Tokenizers read from GGUF files split text as the model was trained to."""

import json
import shutil

import gguf
import pytest
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, pre_tokenizers

from longattn_hf import WindowDocuments
from longattn_hf.model.tokenizer import load_tokenizer, tokenise
from longattn_hf.pipeline.demo_corpus import demo_documents
from tests.support.models import needs_smollm2
from tests.support.tiny import build_tokenizer, write_gguf

READS_WHAT_THE_FILE_SAYS = Version(transformers.__version__) >= Version("5.10")
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


def test_a_byte_level_gguf_file_that_names_no_split_is_refused(tiny_llama, tmp_path):
    path = str(write_gguf(tmp_path / "x.gguf", tiny_llama, split=None))
    with pytest.raises(
        ValueError, match="does not say how it splits text .tokenizer.ggml.pre is missing.*safetensors"
    ):
        load_tokenizer(path)


@pytest.mark.parametrize(("split", "pieces"), [("gpt-2", ["e", "\u0301"]), ("qwen2", ["\u00e9"]), ("mpt", ["\u00e9"])])
def test_text_is_composed_where_the_models_own_class_composes(tiny_llama, tmp_path, split, pieces):
    tokenizer = load_tokenizer(str(write_gguf(tmp_path / "x.gguf", tiny_llama, split=split)))
    ids = tokenise(tokenizer, "e\u0301")["input_ids"]
    assert ids == [id for piece in pieces for id in tokenise(build_tokenizer(), piece)["input_ids"]]


def test_a_llama_3_piece_that_is_a_token_is_that_token(tiny_llama, tmp_path):
    vocabulary = json.loads((tiny_llama / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    source = shutil.copytree(tiny_llama, tmp_path / "source")
    changed = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    # no merge leads to it
    changed["model"]["vocab"]["zq"] = changed["model"]["vocab"].pop(max(vocabulary, key=vocabulary.get))
    changed["model"]["merges"].pop()
    (source / "tokenizer.json").write_text(json.dumps(changed))
    ids = {
        split: tokenise(load_tokenizer(str(write_gguf(tmp_path / f"{split}.gguf", source, split=split))), "zq")
        for split in ("llama-bpe", "gpt-2")
    }
    assert ids["llama-bpe"]["input_ids"] == [299] and len(ids["gpt-2"]["input_ids"]) == 2


@pytest.mark.skipif(not READS_WHAT_THE_FILE_SAYS, reason="this release of transformers refuses the vocabulary")
@pytest.mark.parametrize(
    ("flags", "tokens"),
    [
        ({}, ["\u2581far", "\u2581a"]),
        ({"add_space_prefix": True}, ["\u2581far", "\u2581a"]),
        ({"add_space_prefix": False}, ["far", "\u2581a"]),
    ],
)
def test_a_sentencepiece_gguf_file_needs_no_split_and_puts_a_blank_before_text_as_it_says(tmp_path, flags, tokens):
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [*"\u2581abcdfrt", "\u2581a", "\u2581f", "ar", "far", "\u2581far"]
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for name in ("context_length", "embedding_length", "feed_forward_length", "block_count", "head_count"):
        getattr(writer, f"add_{name}")(8)
    writer.add_vocab_size(259 + len(words))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *bytes_, *words])
    writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(words))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(words))
    for name, value in flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = load_tokenizer(str(tmp_path / "x.gguf"))
    assert tokenizer.convert_ids_to_tokens(tokenise(tokenizer, "far a")["input_ids"]) == tokens


@pytest.mark.skipif(
    not READS_WHAT_THE_FILE_SAYS, reason="this release of transformers gives the ids of the file itself"
)
def test_ids_that_are_not_those_of_the_tokenizer_json_beside_are_refused(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    # a class that composes accents, of which this file knows nothing
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPTNeoXTokenizer"}))
    reason = r"loads it .GPTNeoXTokenizer., gives other ids than the tokenizer.json beside it: .*tokenizer_class"
    with pytest.raises(ValueError, match=reason):
        load_tokenizer(str(folder))
    with pytest.raises(ValueError, match=reason):
        WindowDocuments(tokenizer=str(folder), window_tokens=4)({"text": [TEXT]})


def test_a_gguf_file_beside_the_tokenizer_json_of_another_model_is_refused(tiny_llama, tmp_path):
    path = write_gguf(tmp_path / "x.gguf", tiny_llama, split="qwen2")
    shutil.copy(tiny_llama / "tokenizer.json", tmp_path)
    with pytest.raises(ValueError, match="gives other ids than the tokenizer.json beside it"):
        load_tokenizer(str(path))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"added_tokens": [], "model": {"type": "Odd"}}'])
def test_a_damaged_tokenizer_json_is_named_with_its_model(tiny_llama, tmp_path, damage):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "tokenizer.json").write_text(damage)
    for model in (folder, write_gguf(folder / "x.gguf", tiny_llama)):
        with pytest.raises(ValueError, match=f"'{model.relative_to(tmp_path)}' has no tokenizer that transformers"):
            load_tokenizer(str(model))


@needs_smollm2
@pytest.mark.slow
def test_the_embedded_models_ids_are_those_of_its_vocabulary_with_its_own_splits(smollm2):
    tokenizer = smollm2.load_tokenizer()
    # SmolLM2's tokenizer.json: each digit by itself, then GPT-2's expression
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    digits = pre_tokenizers.Digits(individual_digits=True)
    own.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    for document in list(demo_documents())[::3]:
        ids = tokenise(tokenizer, document["text"])["input_ids"]
        assert ids == own.encode(document["text"], add_special_tokens=False).ids, document["id"]
