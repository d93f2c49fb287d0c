"""Scores that a language model gives a window's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel

from longattn_hf.columns import INPUT_IDS
from longattn_hf.model.language_model import load_language_model, name_language_model
from longattn_hf.model.tokenizer import name_tokenizer, tokenise
from longattn_hf.scoring.base import TextScorer
from longattn_hf.scoring.with_model import ModelScorer


@dataclass(frozen=True, kw_only=True)
class TokenScorer(ModelScorer, TextScorer):
    """A scorer of token ids, int64 `[T]`: the column `input_ids` where there is one, else the tokenised text.

    Attributes:
        model: A Hub id, a local directory, a GGUF file, `package:NAME/FILE` for an installed package's file, or a
            loaded causal language model, whose weights are not copied.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`; if None, float32 on a CPU and bfloat16 on a GPU.
        device: As torch names it; if None, this process's GPU where there is one.
        tokenizer: Another place of the model's tokenizer, or the tokenizer itself; if None, where the model is.
        token: As for `huggingface_hub`.
        trust_remote_code: Whether code of the model's repository may run.
    """

    model: Any
    revision: str | None = None
    gguf_file: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    tokenizer: Any = None
    token: str | bool | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "model", name_language_model(self.model))
        object.__setattr__(self, "tokenizer", name_tokenizer(self.tokenizer))

    def prepare(self) -> None:
        """Loads the model and its tokenizer; raises ValueError where there is none."""
        self.load_model()
        self.load_tokenizer()

    def load_model(self, rank: int | None = None) -> PreTrainedModel:
        """Returns the language model, loading it on the first call in a process."""
        return load_language_model(self.model_ref, dtype=self.dtype, device=self.device, rank=rank)

    @property
    def readable_columns(self) -> tuple[str, ...]:
        """Ids, else the text."""
        return (INPUT_IDS, self.text_column)

    def _read(self, column: str, values: list[Any]) -> Sequence[np.ndarray]:
        if column != INPUT_IDS and values:
            values = tokenise(self.load_tokenizer(), values)["input_ids"]
        return [np.asarray(ids, dtype=np.int64) for ids in values]
