"""A model's tokenizer, and the one way in which documents are tokenised."""

import json
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from longattn_hf.files import hash_json
from longattn_hf.model.identity import identify_once, pinned
from longattn_hf.model.loaded import held_by, is_loaded, is_name, name_object, title_of_kind
from longattn_hf.model.location import Location, ModelRef, locate, refuse_other_code

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast


def load_tokenizer(model: ModelRef | str) -> "PreTrainedTokenizerFast":
    """Loads a model's tokenizer from where `locate` finds the model.

    Returns:
        A fast tokenizer: one that gives each token's place in the text.

    Raises:
        ValueError: There is none, or it is not a fast one.
    """
    from transformers import AutoTokenizer

    ref = ModelRef.of(model)
    location = locate(ref)
    if ref.trust_remote_code:
        refuse_other_code(location)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location.path, trust_remote_code=ref.trust_remote_code, **location.loading_arguments
        )
    # the tokenizers library raises nothing more exact for a file that it cannot read
    except Exception as error:
        raise ValueError(f"{location.name!r} has no tokenizer that transformers can load: {error}") from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {location.name!r} is a slow one ({type(tokenizer).__name__}), which cannot tell where "
            "a token stands in the text. Use a model with a tokenizer.json."
        )
    if location.gguf_file:
        _split_as_named(tokenizer, location)
    _prove(tokenizer, location.name, _own_tokenizer(location))
    return tokenizer  # a fast one


@dataclass(frozen=True, kw_only=True)
class _Split:
    """How a byte-level vocabulary's text is prepared before its bytes are merged.

    Attributes:
        pattern: What is split off; None for GPT-2's own expression, which the byte-level step has built in.
        digits: Each digit is split off before.
        composed: Text is put into Unicode's composed form first, as transformers' own class for the model does.
        ignore_merges: A piece that is a token is that token, whatever the merges make of it.
    """

    pattern: str | None = None
    digits: bool = False
    composed: bool = False
    ignore_merges: bool = False


_LLAMA3, _QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("{1,3}", "")
)
# by the names of `tokenizer.ggml.pre` (llama.cpp, src/llama-vocab.cpp)
_SPLITS = {
    **dict.fromkeys(("gpt-2", "phi-2", "jais"), _Split()),
    **dict.fromkeys(("mpt", "olmo"), _Split(composed=True)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"), _Split(digits=True)),
    "command-r": _Split(digits=True, composed=True),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2", "midm-2.0", "pixtral"),
        _Split(pattern=_LLAMA3, ignore_merges=True),
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx"), _Split(pattern=_LLAMA3)),
    **dict.fromkeys(("qwen2", "megrez"), _Split(pattern=_QWEN2, composed=True)),
    **dict.fromkeys(("stablelm2", "deepseek-r1-qwen"), _Split(pattern=_QWEN2)),
}


def _split_as_named(tokenizer: Any, location: Location) -> None:
    """Gives a tokenizer that was read from a GGUF file the split that the file names.

    transformers applies a part of these names, and splits by GPT-2's expression for all others. A SentencePiece
    vocabulary (`tokenizer.ggml.model` of "llama") has no split; what it has is a blank before the text, or none.

    Raises:
        ValueError: A byte-level vocabulary names no split, or one that is not known here: the ids could be wrong.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    from longattn_hf.model.tensors import open_gguf

    fields, backend = open_gguf(location).fields, tokenizer.backend_tokenizer
    name, kind = (fields.get(f"tokenizer.ggml.{field}") for field in ("pre", "model"))
    if kind == "llama" and fields.get("tokenizer.ggml.add_space_prefix") is False:
        # transformers puts one there whatever the file says
        backend.normalizer, backend.pre_tokenizer = None, pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    if kind != "gpt2":
        return
    # early releases of transformers name others, and put BOS before every text
    for role, field in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        token = fields.get(f"tokenizer.ggml.{field}_token_id")
        if token is not None and getattr(tokenizer, f"{role}_token_id") != token:
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(int(token)))
    if not fields.get("tokenizer.ggml.add_bos_token") and tokenizer("")["input_ids"]:
        backend.post_processor = None
    split = _SPLITS.get(name or "")
    if split is None:
        says = f"splits text as {name!r} (tokenizer.ggml.pre), which is not known here"
        if name is None:
            says = "does not say how it splits text (tokenizer.ggml.pre is missing)"
        raise ValueError(
            f"The tokenizer of {location.name!r} {says}, so its ids could be wrong; known are {', '.join(_SPLITS)}. "
            "Use the model's safetensors instead, or a GGUF file made by a later llama.cpp."
        )
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split.digits else []
    if split.pattern:
        steps.append(pre_tokenizers.Split(Regex(split.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split.pattern))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.normalizer = normalizers.NFC() if split.composed else None
    backend.model.ignore_merges = split.ignore_merges


# what releases of transformers and readers of vocabularies have split differently
_PROBE = (
    "1234567 3.14\t x\u00a0y  \n\n\n    z\r\n I'm you've DON'T it's 'tis\u2019s  caf\u00e9 \u212b \ufb01 \u4e2d\u6587"
    "\u5b57\u7b26 \u65e5\u672c\u8a9e\u3067\u3059 \u0e20\u0e32\u0e29\u0e32 \u0434\u0430 \u05e9\u05dc\u05d5\u05dd "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea __init__(self): <|x|> </s> x=[0];#!  "
)


def probe_ids(tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Returns the ids of a text of all that tokenizers differ in, the names of their special tokens too."""
    return tokenise(tokenizer, _PROBE + " ".join(tokenizer.all_special_tokens))["input_ids"]


def _prove(tokenizer: Any, title: str, own: Any) -> None:
    """Checks that a tokenizer gives the ids that its own file says, and that they lead back to the text.

    Raises:
        ValueError: They are others: every score would be that of another text.
    """
    ids, backend = probe_ids(tokenizer), tokenizer.backend_tokenizer
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        # early releases of transformers make an empty one where there are no files
        raise ValueError(f"{title!r} has no tokenizer that transformers can load: it knows special tokens only.")
    text = _PROBE + " ".join(tokenizer.all_special_tokens)
    if own is not None:
        own.encode_special_tokens = True
        expected = own.encode(text, add_special_tokens=False).ids
        if ids != expected:
            pairs = enumerate(zip(ids, expected, strict=False))
            at = next((n for n, pair in pairs if pair[0] != pair[1]), min(len(ids), len(expected)))
            raise ValueError(
                f"The tokenizer of {title!r}, as transformers loads it ({type(tokenizer).__name__}), gives "
                f"other ids than the tokenizer.json beside it: {ids[at : at + 4]} and {expected[at : at + 4]} for the "
                'same text. If tokenizer.json is the model\'s own, set "tokenizer_class": "PreTrainedTokenizerFast" '
                "in tokenizer_config.json, or take its safetensors instead of a GGUF file; if not, remove it."
            )
    if type(backend.decoder).__name__ == "ByteLevel" and backend.normalizer is None:
        back = backend.decode(ids, skip_special_tokens=False)
        if back.removeprefix(" ") != text:
            raise ValueError(
                f"The tokenizer of {title!r} does not lead back to the text that its ids stand for: a probe "
                f"text comes back as {back[:40]!r}... Its vocabulary is damaged, or another tokenizer's."
            )


def _own_tokenizer(location: Location) -> Any:
    """Reads `tokenizer.json` by itself; None where there is none."""
    from tokenizers import Tokenizer

    try:
        path = location.file("tokenizer.json")
    except (FileNotFoundError, ValueError):
        # without a network, what is not in the cache was not there when the tokenizer was fetched
        return None
    try:
        return Tokenizer.from_file(str(path))
    # the library raises nothing more exact
    except Exception as error:
        raise ValueError(f"The tokenizer.json of {location.name!r} cannot be read: {error}") from error


def load_tokenizer_once(model: ModelRef) -> "PreTrainedTokenizerFast":
    """Loads a tokenizer on the first call in a process, and the same one afterwards, unless its files change.

    Raises:
        ValueError: As `load_tokenizer`; or the name is that of a loaded model, which has none.
    """
    if is_loaded(model.name):
        if not hasattr(held := held_by(model.name), "backend_tokenizer"):
            raise ValueError(f"{model.title} brings no tokenizer: give tokenizer= too, a name or an object.")
        return held
    return _load_once(pinned(model), identify_once(model))


@lru_cache(maxsize=4)
def _load_once(model: ModelRef, identity: str) -> "PreTrainedTokenizerFast":
    return load_tokenizer(model)


def identify_tokenizer(model: ModelRef) -> str | None:
    """Names a model's tokenizer by what it holds and what it makes of a probe text; None where there is none."""
    try:
        return _identity_of(load_tokenizer_once(model))
    except ValueError:
        return None


def _identity_of(tokenizer: "PreTrainedTokenizerFast") -> str:
    # a call leaves its truncation and padding behind in it
    definition = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    return hash_json([definition, probe_ids(tokenizer), tokenizer.bos_token_id])


def name_tokenizer(tokenizer: Any) -> Any:
    """Returns the name of a tokenizer given as an object, of which a copy is kept; names stay as they are.

    Raises:
        ValueError: It is no fast tokenizer of transformers, or its ids do not lead back to their text.
    """
    if tokenizer is None or is_name(tokenizer):
        return tokenizer
    kind = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer is a {kind}: give a name, or a fast tokenizer of transformers, as AutoTokenizer loads it (of "
            "the library tokenizers: PreTrainedTokenizerFast(tokenizer_object=...))."
        )
    copy = deepcopy(tokenizer)
    copy.backend_tokenizer.no_truncation()
    copy.backend_tokenizer.no_padding()
    _prove(copy, title_of_kind(kind), None)
    return name_object(kind, _identity_of(copy), copy)


def tokenise(tokenizer: "PreTrainedTokenizerFast", text: str | list[str]) -> "BatchEncoding":
    """Tokenises a text or several as they stand: none gets special tokens, and those written in a text are text."""
    return tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )
