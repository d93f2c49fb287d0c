"""Scores that a language model gives a window's tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel

from longattn_hf.columns import INPUT_IDS
from longattn_hf.model.language_model import load_language_model, name_language_model, positions_of, vocabulary_of
from longattn_hf.model.tokenizer import name_tokenizer, tokenise
from longattn_hf.scoring.base import TextScorer
from longattn_hf.scoring.with_model import ModelScorer, beyond_positions, refuse_unknown_device, why_not_ids


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

    Raises:
        ValueError: On a missing column, a row that cannot be scored, or a score that is not finite.
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
        refuse_unknown_device(self.device)

    def prepare(self) -> None:
        """Loads the model and its tokenizer.

        Raises:
            ValueError: There is none, or it is not one that this scorer can score with.
        """
        self._check_model(self.load_model())
        self.load_tokenizer()

    def _check_model(self, network: PreTrainedModel) -> None:
        """Checks what the scores need of the model; raises ValueError, as the first row would."""

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

    def _why_refused(self, value: np.ndarray, rank: int | None) -> str | None:
        network = self.load_model(rank)
        reason = why_not_ids(value, vocabulary_of(network))
        return reason or beyond_positions(self._tokens_at_once(value), positions_of(network))

    def _tokens_at_once(self, ids: np.ndarray) -> int:
        """Returns the length of what the model is given of a window."""
        return len(ids)

    def _score_rows(self, values: Mapping[int, Any], rank: int | None) -> dict[int, dict[str, Any]]:
        rows = super()._score_rows(values, rank)
        for row, scores in rows.items():
            numbers = [number for score in scores.values() for number in np.ravel(score) if number is not None]
            if not np.isfinite(np.array(numbers, dtype=float)).all():
                raise ValueError(
                    f"The score of row {row} is not finite: the model's weights or activations overflow in "
                    f"{self.load_model(rank).dtype}. Check the checkpoint, or score with dtype='float32'."
                )
        return rows
