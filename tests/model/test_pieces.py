"""Documents tokenised in pieces have the ids of one piece, and end where the tokens' own bytes end."""

import logging
import random
from functools import lru_cache

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, processors, trainers
from tokenizers import normalizers as norm
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from longattn_hf import WindowDocuments
from longattn_hf.model import pieces
from longattn_hf.model.pieces import DocumentTokenizer
from longattn_hf.model.tokenizer import tokenise

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
TRIMMING = processors.ByteLevel(trim_offsets=True)
TRAINING_TEXT = [
    "The attention of a long document reaches far back, and the far tokens matter.\n\n\tif x == 12345:\n        x",
    "Naïve café — 日本語のテキスト。漢字，中文 😀 𝒳 ∑ and so on. 한국어 I'VE we've",
    'say "some quoted text" 1234567 aaaaaaa     bbbb',
] * 20


def split(pattern):
    return pre.Split(Regex(pattern), "isolated")


def byte_level(*splits, prefix=False, use_regex=False, normalizer=None, post=None, added=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.Sequence([*splits, pre.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)])
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre.ByteLevel.alphabet()
    return trained(tokenizer, trainers.BpeTrainer, initial_alphabet=alphabet, post=post, added=added)


def trained(tokenizer, trainer, *, post=None, added=(), special=("<s>", "</s>"), **arguments):
    arguments = {"vocab_size": 450, "special_tokens": list(special), "show_progress": False} | arguments
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer(**arguments))
    if post:
        tokenizer.post_processor = post
    tokenizer.add_tokens(list(added))
    return tokenizer


def other(model, trainer, pre_tokenizer, normalizer=None, **arguments):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    return trained(tokenizer, trainer, **arguments)


def like_gemma():
    """Blanks become part of words, nothing splits, and no token reaches from a word to the blank behind it."""
    tokenizer = other(models.BPE(unk_token="<unk>"), trainers.BpeTrainer, pre.Metaspace(), special=["<unk>"])
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre.Split(" ", "merged_with_previous"), norm.Replace(" ", "▁")
    return tokenizer


# those that have places where a text can be cut, and those that have none
CUT = {
    "gpt2": lambda: byte_level(use_regex=True),
    "trim_offsets": lambda: byte_level(use_regex=True, post=TRIMMING),
    "prefix": lambda: byte_level(use_regex=True, prefix=True),
    "prefix, trim_offsets": lambda: byte_level(use_regex=True, prefix=True, post=TRIMMING),
    "llama3": lambda: byte_level(split(LLAMA3)),
    "qwen2, NFC": lambda: byte_level(split(LLAMA3.replace("{1,3}", "")), normalizer=norm.NFC()),
    "o200k": lambda: byte_level(split(O200K)),
    "bloom": lambda: byte_level(split(BLOOM)),
    "digits": lambda: byte_level(pre.Digits(individual_digits=True), use_regex=True),
    "only digits split": lambda: byte_level(split(r"\p{N}")),
    "words of three": lambda: byte_level(split(r"[a-z]{1,3}|\s|.")),
    "added blanks": lambda: byte_level(
        use_regex=True, post=TRIMMING, added=[AddedToken(" " * n, normalized=False) for n in (2, 3, 8)]
    ),
    "added words": lambda: byte_level(use_regex=True, added=[AddedToken("long document"), AddedToken("漢字，")]),
    "lower case": lambda: byte_level(use_regex=True, normalizer=norm.Lowercase()),
    "metaspace": lambda: other(models.BPE(unk_token="<unk>"), trainers.BpeTrainer, pre.Metaspace(), special=["<unk>"]),
    "gemma": like_gemma,
    "wordpiece": lambda: other(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer,
        pre.BertPreTokenizer(),
        norm.BertNormalizer(lowercase=True),
        special=["[UNK]"],
    ),
    "unigram": lambda: other(
        models.Unigram(), trainers.UnigramTrainer, pre.Metaspace(), norm.NFKC(), unk_token="<unk>", special=["<unk>"]
    ),
}
WHOLE = {
    "no split": lambda: byte_level(),
    "looks back": lambda: byte_level(split(r"(?<=a)b|\w+|\s+|[^\w\s]")),
    "word borders": lambda: byte_level(split(r"\b\w|\w+|\s+|[^\w\s]")),
    "repeated group": lambda: byte_level(split(r"(?:\w+ )+|\s+|[^\w\s]|\w")),
    "quotes": lambda: byte_level(split(r'"[^"]*"|\w+|\s+|[^\w\s]')),
    "lstrip": lambda: byte_level(use_regex=True, added=[AddedToken("far", lstrip=True)]),
    "llama2": lambda: other(
        models.BPE(unk_token="<unk>"),
        trainers.BpeTrainer,
        None,
        norm.Sequence([norm.Prepend("▁"), norm.Replace(" ", "▁")]),
        special=["<unk>"],
    ),
}


@lru_cache
def built(name):
    return (CUT | WHOLE)[name]()


BITS = ["The attention", " of", " long document", "don't", "'VE", " ", "  ", " " * 9, "\n", "\n\n", "\t", "\r\n"]
BITS += [
    "12345",
    "1",
    "Ab",
    "aB",
    "b",
    "日本語",
    "。",
    "漢字，",
    "😀",
    "𝒳",
    "é",
    "e\u0301",
    "\u0301",
    "\u0338",
    "<",
    "=",
]
BITS += ["한", "\u1112\u1161\u11ab", "\u1161", ".", ",", '"', "(", "<s>", "</s>", "\xa0", "\u3000", "ﬁ", "…", "İ", "/"]


def texts(seed):
    rng = random.Random(seed)
    return [
        "".join(rng.choice(BITS) * rng.choice([1, 1, 1, 2, 30]) for _ in range(n)) for n in (1, 2, 9, 60, 400, 400)
    ]


def tokenised(tokenizer, some):
    """Ids, and the ends that the tokenizer itself tells where it does not trim; all in one piece."""
    ids = tokenise(PreTrainedTokenizerFast(tokenizer_object=tokenizer), some)["input_ids"]
    own = Tokenizer.from_str(tokenizer.to_str())
    own.post_processor, own.encode_special_tokens = None, True
    offsets = [encoding.offsets for encoding in own.encode_batch(some, add_special_tokens=False)]
    ends = [np.maximum.accumulate([end for _, end in pairs] or [0])[: len(pairs)] for pairs in offsets]
    return list(zip(ids, ends, strict=True))


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
@pytest.mark.parametrize("characters", [16, 100, 2**17])
def test_pieces_have_the_ids_and_ends_of_one(monkeypatch, name, characters):
    monkeypatch.setattr(pieces, "_PIECE", characters)
    monkeypatch.setattr(pieces, "_BATCH", 4 * characters)
    monkeypatch.setattr(pieces, "_REMEMBERED", 50 if characters == 100 else 2**17)
    tokenizer = built(name)
    documents = DocumentTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    some = texts(f"{name} {characters}")
    for text, tokens, (ids, ends) in zip(some, documents(some), tokenised(tokenizer, some), strict=True):
        assert tokens.ids.tolist() == ids, text
        if "prefix" in name and tokenizer.id_to_token(ids[0]) == "Ġ" and text[0] != " ":
            # a blank that is not in the text ends where the text begins, whatever the offsets say
            ends[0] = tokens.ends[0]
        assert tokens.ends.tolist() == ends.tolist(), text


@pytest.mark.parametrize("name", ["trim_offsets", "prefix, trim_offsets", "added blanks", "llama3", "qwen2, NFC"])
@pytest.mark.parametrize("window_tokens", [1, 2, 7])
def test_a_windows_text_is_what_its_tokens_spell(tmp_path, name, window_tokens):
    tokenizer = built(name)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    text = " if x:\n        y  =  1\n\n    z\n" * 9
    rows = WindowDocuments(tokenizer=str(tmp_path), window_tokens=window_tokens)({"text": [text]})
    spelt = ["".join(tokenizer.id_to_token(i) for i in ids) for ids in rows["input_ids"]]
    assert rows["text"] == [word.replace("Ġ", " ").replace("Ċ", "\n").replace("ĉ", "\t") for word in spelt]


def test_a_tokenizer_that_cannot_be_cut_says_so_once_and_why(monkeypatch, caplog):
    monkeypatch.setattr(pieces, "_PIECE", 100)
    for name in WHOLE:
        caplog.clear()
        documents = DocumentTokenizer(PreTrainedTokenizerFast(tokenizer_object=built(name)))
        with caplog.at_level(logging.WARNING):
            list(documents(["short", 'a long "text ' * 50, "another long text " * 50]))
        assert len(caplog.records) == 1 and "tokenised in one" in caplog.text, name


@pytest.mark.parametrize("name", sorted(CUT))
def test_memory_of_a_piece_is_bounded_where_a_text_can_be_cut(monkeypatch, name):
    monkeypatch.setattr(pieces, "_PIECE", 200)
    tokenizer = built(name)
    documents = DocumentTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    cut = list(documents._cut(0, "The far tokens of a 1 long document matter. And so on " * 100))
    assert len(cut) > 20 and max(len(piece.text) for piece in cut) <= 200
