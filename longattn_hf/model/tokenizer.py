"""A model's tokenizer, and the one way in which documents are tokenised."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

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


@lru_cache(maxsize=4)
def load_tokenizer_once(model: ModelRef) -> "PreTrainedTokenizerFast":
    """Loads a tokenizer on the first call in a process, and returns the same one afterwards."""
    return load_tokenizer(model)


def tokenise(tokenizer: "PreTrainedTokenizerFast", text: str | list[str]) -> "BatchEncoding":
    """Tokenises a text or several as they stand: none gets special tokens, and those written in a text are text."""
    return tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )
