"""A model's tokenizer, and the one way in which documents are tokenised."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from longattn_hf.files import hash_json
from longattn_hf.model.identity import identify_once, pinned
from longattn_hf.model.location import Location, ModelRef, locate

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast


def load_tokenizer(
    model: ModelRef | str, *, token: str | bool | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerFast":
    """Loads a model's tokenizer from where `locate` finds the model.

    Returns:
        A fast tokenizer: one that gives each token's place in the text.

    Raises:
        ValueError: There is none, or it is not a fast one.
    """
    from transformers import AutoTokenizer

    location = locate(model, token=token)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location.path, trust_remote_code=trust_remote_code, **location.loading_arguments
        )
    except (OSError, KeyError, ValueError, ImportError, TypeError) as error:
        raise ValueError(f"{location.name!r} has no tokenizer that transformers can load: {error}") from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {location.name!r} is a slow one ({type(tokenizer).__name__}), which cannot tell where "
            "a token stands in the text. Use a model with a tokenizer.json."
        )
    if location.gguf_file:
        _split_as_named(tokenizer, location)
    _prove(tokenizer, location)
    return tokenizer  # type: ignore[return-value]  # a fast one


# how text is split before its bytes are merged, by the names of `tokenizer.ggml.pre` (llama.cpp, src/llama-vocab.cpp);
# None stands for GPT-2's own expression, which the byte-level step has built in
_SPLIT_DIGITS = r"\p{N}"
_LLAMA3, _QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("{1,3}", "")
)
_SPLITS = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "jais"), None),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _SPLIT_DIGITS
    ),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"), _QWEN2),
}


def _split_as_named(tokenizer: Any, location: Location) -> None:
    """Gives a tokenizer that was read from a GGUF file the split that the file names.

    transformers does not read the name, and most byte-level vocabularies come out split as GPT-2's.

    Raises:
        ValueError: The name is not known here, so the ids could be wrong.
    """
    from tokenizers import Regex, pre_tokenizers

    from longattn_hf.model.tensors import gguf_field, open_gguf

    reader = open_gguf(location)
    name = gguf_field(reader, "tokenizer.ggml.pre")
    if name is None or gguf_field(reader, "tokenizer.ggml.model") != "gpt2":
        return
    if name not in _SPLITS:
        raise ValueError(
            f"The tokenizer of {location.name!r} splits text as {name!r} (tokenizer.ggml.pre), which is not known "
            f"here, so its ids could be wrong; known are {', '.join(_SPLITS)}. Use the model's safetensors instead."
        )
    split = _SPLITS[name]
    whole: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split is not None:
        own = split != _SPLIT_DIGITS
        parts = pre_tokenizers.Split(Regex(split), "isolated")
        whole = pre_tokenizers.Sequence([parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not own)])
    tokenizer.backend_tokenizer.pre_tokenizer = whole


# what releases of transformers and readers of vocabularies have split differently
_PROBE = (
    "1234567 3.14\t x\u00a0y  \n\n\n    z\r\n I'm you've DON'T it's 'tis\u2019s  caf\u00e9 \u212b \ufb01 \u4e2d\u6587"
    "\u5b57\u7b26 \u65e5\u672c\u8a9e\u3067\u3059 \u0e20\u0e32\u0e29\u0e32 \u0434\u0430 \u05e9\u05dc\u05d5\u05dd "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea __init__(self): <|x|> </s> x=[0];#!  "
)


def probe_ids(tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Returns the ids of a text of all that tokenizers differ in, the names of their special tokens too."""
    return tokenise(tokenizer, _PROBE + " ".join(tokenizer.all_special_tokens))["input_ids"]


def _prove(tokenizer: Any, location: Location) -> None:
    """Checks that a tokenizer gives the ids that its own file says, and that they lead back to the text.

    Raises:
        ValueError: They are others: every score would be that of another text.
    """
    ids, backend = probe_ids(tokenizer), tokenizer.backend_tokenizer
    text = _PROBE + " ".join(tokenizer.all_special_tokens)
    if not location.gguf_file and (own := _own_tokenizer(location)) is not None:
        own.encode_special_tokens = True
        expected = own.encode(text, add_special_tokens=False).ids
        if ids != expected:
            at = next((n for n, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]), 0)
            raise ValueError(
                f"transformers reads the tokenizer of {location.name!r} otherwise than its tokenizer.json says: of a "
                f"probe text, token {at} is {ids[at : at + 1]} and not {expected[at : at + 1]}, so all ids would be "
                "wrong. Use another release of transformers, or a repository whose tokenizer files agree."
            )
    if type(backend.decoder).__name__ == "ByteLevel" and backend.normalizer is None:
        back = backend.decode(ids, skip_special_tokens=False)
        if back.removeprefix(" ") != text:
            raise ValueError(
                f"The tokenizer of {location.name!r} does not lead back to the text that its ids stand for: a probe "
                f"text comes back as {back[:40]!r}... Its vocabulary is damaged, or another tokenizer's."
            )


def _own_tokenizer(location: Location) -> Any:
    """Reads `tokenizer.json` by itself; None where there is none."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(location.file("tokenizer.json")))
    except FileNotFoundError:
        return None


def load_tokenizer_once(model: ModelRef) -> "PreTrainedTokenizerFast":
    """Loads a tokenizer on the first call in a process, and the same one afterwards, unless its files change."""
    return _load_once(pinned(model), identify_once(model))


@lru_cache(maxsize=4)
def _load_once(model: ModelRef, identity: str) -> "PreTrainedTokenizerFast":
    return load_tokenizer(model)


def identify_tokenizer(model: ModelRef) -> str | None:
    """Names what a model's tokenizer makes of a probe text; None where it has no tokenizer."""
    try:
        return hash_json(probe_ids(load_tokenizer_once(model)))
    except ValueError:
        return None


def tokenise(tokenizer: "PreTrainedTokenizerFast", text: str | list[str]) -> "BatchEncoding":
    """Tokenises a text or several as they stand: none gets special tokens, and those written in a text are text."""
    return tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )
