"""What scorers have in common that go by a model: its reference, its tokenizer, and the bytes of both."""

from typing import TYPE_CHECKING, Any

from longattn_hf.model.loaded import is_loaded
from longattn_hf.model.location import ModelRef
from longattn_hf.model.tokenizer import identify_tokenizer, load_tokenizer_once
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
