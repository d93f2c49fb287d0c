"""Scores that a language model gives a window's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel

from longattn_hf.columns import INPUT_IDS
from longattn_hf.model.language_model import load_language_model
from longattn_hf.model.location import ModelRef
from longattn_hf.model.tokenizer import identify_tokenizer, load_tokenizer_once, tokenise
from longattn_hf.scoring.base import TextScorer


@dataclass(frozen=True, kw_only=True)
class TokenScorer(TextScorer):
    """A scorer of token ids, int64 `[T]`: the column `input_ids` where there is one, else the tokenised text.

    Attributes:
        model: A Hub id, a local directory, a GGUF file, or `package:NAME/FILE` for an installed package's file.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`; if None, float32 on a CPU and bfloat16 on a GPU.
        device: As torch names it; if None, this process's GPU where there is one.
    """

    model: str
    revision: str | None = None
    gguf_file: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None

    @property
    def model_ref(self) -> ModelRef:
        """The language model."""
        return ModelRef(self.model, self.revision, self.gguf_file)

    def _models(self) -> tuple[ModelRef, ...]:
        return (self.model_ref,)

    def _other_bytes(self) -> str | None:
        return identify_tokenizer(self.model_ref)

    def prepare(self) -> None:
        """Loads the model and its tokenizer; raises ValueError where there is none."""
        self.load_model()
        load_tokenizer_once(self.model_ref)

    def load_model(self, rank: int | None = None) -> PreTrainedModel:
        """Returns the language model, loading it on the first call in a process."""
        return load_language_model(self.model_ref, dtype=self.dtype, device=self.device, rank=rank)

    @property
    def readable_columns(self) -> tuple[str, ...]:
        """Ids, else the text."""
        return (INPUT_IDS, self.text_column)

    def _read(self, column: str, values: list[Any]) -> Sequence[np.ndarray]:
        if column != INPUT_IDS and values:
            values = tokenise(load_tokenizer_once(self.model_ref), values)["input_ids"]
        return [np.asarray(ids, dtype=np.int64) for ids in values]
