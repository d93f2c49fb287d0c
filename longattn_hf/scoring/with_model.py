"""What scorers have in common that go by a model: its reference, its tokenizer, and the bytes of both."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from longattn_hf.model.loaded import is_loaded
from longattn_hf.model.location import ModelRef
from longattn_hf.model.tokenizer import identify_tokenizer, load_tokenizer_once
from longattn_hf.rows import is_unicode
from longattn_hf.scoring.base import Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class ModelScorer(Scorer):
    """A scorer with a model and, where it lies elsewhere, a tokenizer; subclasses make fields of the attributes.

    Attributes:
        model: The name of a model, or of an object.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        tokenizer: The name of a tokenizer or of an object, if it is not where the model is.
        token: As for `huggingface_hub`.
        trust_remote_code: Whether code of the model's repository may run.
    """

    model: Any
    revision: str | None
    gguf_file: str | None
    tokenizer: Any
    token: str | bool | None
    trust_remote_code: bool

    @property
    def model_ref(self) -> ModelRef:
        """The model that scores."""
        return ModelRef(self.model, self.revision, self.gguf_file, self.token, self.trust_remote_code)

    @property
    def tokenizer_ref(self) -> ModelRef:
        """Where the tokenizer is."""
        if self.tokenizer is None:
            return self.model_ref
        return ModelRef(self.tokenizer, token=None if is_loaded(self.tokenizer) else self.token)

    def load_tokenizer(self) -> "PreTrainedTokenizerFast":
        """Returns the model's tokenizer, loading it on the first call in a process; ValueError where there is none."""
        return load_tokenizer_once(self.tokenizer_ref)

    def _models(self) -> tuple[ModelRef, ...]:
        return (self.model_ref,) if self.tokenizer is None else (self.model_ref, self.tokenizer_ref)

    def _other_bytes(self) -> str | None:
        return identify_tokenizer(self.tokenizer_ref)

    def _why_unreadable(self, value: Any, is_ids: bool) -> str | None:
        reason = super()._why_unreadable(value, is_ids)
        # no tokenizer takes such a text
        return reason or (None if is_ids or is_unicode(value) else "not Unicode, by a lone surrogate")

    def _refusal(self, row: int, column: str, reason: str) -> str:
        return (
            f"Row {row} of column {column!r} is unusable: {reason}. Drop such rows, or pass on_error='skip' to leave "
            "their scores null with a reason."
        )


def refuse_unknown_device(device: str | None) -> None:
    """Checks a device's name.

    Raises:
        ValueError: torch knows no such device.
    """
    try:
        torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is none that torch knows: give 'cpu', 'cuda', 'cuda:1' or None."
        ) from error


def why_not_ids(ids: np.ndarray, vocab_size: int) -> str | None:
    """Says why ids, int `[T]`, are none that a model of so many can read; None if they are."""
    if not len(ids):
        return "no tokens"
    worst = ids.min() if ids.min() < 0 else ids.max()
    return None if 0 <= worst < vocab_size else f"token id {worst} is outside the vocabulary of {vocab_size}"


def beyond_positions(tokens: int, positions: int | None) -> str | None:
    """Says that a window is longer than the positions that a model has learned; None if it is not."""
    if positions is None or tokens <= positions:
        return None
    return f"longer than the {positions} positions that the model has learned ({tokens} tokens)"
