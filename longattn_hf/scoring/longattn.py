"""`LongAttnScorer`: windows in, dependency strength and distribution uniformity out, as a `datasets.map` callable."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from longattn_hf.attention.api import Impl, far_attention, pick_impl, try_impl
from longattn_hf.attention.sampled import sampled_far_attention
from longattn_hf.columns import DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, INPUT_IDS, PER_HEAD, STANDARD_ERROR, TEXT
from longattn_hf.columns.features import SCORE_FEATURES
from longattn_hf.method import get_convention
from longattn_hf.model.device import pick_dtype
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.model.layer_cache import load_first_layer, name_model
from longattn_hf.model.tokenizer import identify_tokenizer, name_tokenizer, tokenise
from longattn_hf.scoring import released
from longattn_hf.scoring.base import equal_lengths
from longattn_hf.scoring.map_scores import map_scores
from longattn_hf.scoring.reach import why_out_of_reach
from longattn_hf.scoring.with_model import ModelScorer, refuse_unknown_device, why_not_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Llama-3.1's first layer is what the paper scores with; LONGATTN_MODEL names another model for `longattn_score`.
DEFAULT_MODEL = "meta-llama/Llama-3.1-8B"
_PAPERS_SCORES = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY)
# how `row_fraction` draws rows; another name whenever that changes, so that sampled scores are made again
_DRAWN_BY = "cells by what a guess with a block's nearest keys misses"


@dataclass(frozen=True)
class LongAttnScorer(ModelScorer):
    """Scores windows by the self-attention of a language model's first layer; for `Dataset.map`, batched or not.

    Reads the column `input_ids` where there is one, else tokenises the text column, and adds the columns
    `dependency_strength`, `distribution_uniformity` and `map_variance`, each the mean over the layer's heads; see
    `map_scores` for their ranges. The attention map is never stored. Instances are plain values: the model is loaded
    on first use, once a process, so fingerprints are stable and `num_proc` and `with_rank` work.

    Attributes:
        model: A Hub id, a local directory, a GGUF file, or `package:NAME/FILE` for an installed package's file; or a
            loaded `PreTrainedModel`, of which what the first layer needs is copied, or a `FirstLayer`. With objects
            the scorer works in this process and those forked from it.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        convention: `"paper"`, `"reference_code"` or `"reference_code_causal"`; see `longattn_hf.method`.
        min_distance: The paper's k, the least distance in tokens of a far pair; a quarter of each window if None. A
            window without a far pair is a bad row. Strengths of windows of unequal lengths do not compare.
        rope_theta: A RoPE base in place of the model's own.
        rope_scaling: A RoPE scaling in place of the model's own, as in transformers' configurations.
        dtype: `"float32"`, `"bfloat16"` or `"float16"` for weights, queries and keys; if None, float32 on a CPU and
            bfloat16 on a GPU. Softmax statistics are float32 always.
        device: As torch names it; if None, this process's GPU where there is one.
        impl: The attention implementation; see `longattn_hf.far_attention`.
        add_bos: Put the BOS token before the window, once; if None, as the model's tokenizer does.
        row_fraction: Read only this share of the heads' rows, drawn at random, and add each score's standard error in
            `dependency_strength_standard_error` and `distribution_uniformity_standard_error`; None reads all, exactly.
        seed: Of that drawing.
        per_head: Add `dependency_strength_per_head` and `distribution_uniformity_per_head`, lists over the heads.
        text_column: The column to tokenise where there is no `input_ids`.
        window_tokens: Rows longer than this, before BOS, are refused; None for no limit. `"reference_code"` cuts
            and pads to it instead.
        on_error: What a bad row (missing, empty, not text, ids that are not the model's, shorter than a far pair,
            longer than `window_tokens` or than the layer sees) does: `"raise"`, or `"skip"`, which leaves its scores
            null and says why in the column `skip_reason`.
        batch_tokens: Windows of equal length are scored together up to this many tokens, on a CPU up to 8,192.
        version: Raised whenever the output changes, so that cached results are not taken for new ones.
        tokenizer: Another place of the model's tokenizer, or the tokenizer itself; if None, where the model is. A
            loaded model brings none: it is needed for texts, and to know of BOS.
        token: As for `huggingface_hub`.
        trust_remote_code: Whether code of the model's repository may run.

    Raises:
        ValueError: On a missing column, a score that is not finite or, with `on_error="raise"`, a bad row.
    """

    model: "str | PreTrainedModel | FirstLayer"
    _: KW_ONLY
    revision: str | None = None
    gguf_file: str | None = None
    convention: str = "paper"
    min_distance: int | None = None
    rope_theta: float | None = None
    rope_scaling: Mapping[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    impl: Impl = "auto"
    add_bos: bool | None = None
    row_fraction: float | None = None
    seed: int = 0
    per_head: bool = False
    text_column: str = TEXT
    window_tokens: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    batch_tokens: int = 65536
    version: int = 2
    tokenizer: "str | PreTrainedTokenizerBase | None" = None
    token: str | bool | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "model", name_model(self.model))
        object.__setattr__(self, "tokenizer", name_tokenizer(self.tokenizer))
        rounds = get_convention(self.convention).probability_dtype is not None
        if self.row_fraction is not None and rounds:
            raise ValueError(f"convention={self.convention!r} rounds each probability: leave row_fraction at None.")
        if self.row_fraction is not None and not 0 < self.row_fraction <= 1:
            raise ValueError(f"row_fraction={self.row_fraction} must be above 0 and at most 1.")
        for name, least in {"min_distance": 0, "batch_tokens": 1, "window_tokens": 1}.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | np.integer) and value >= least):
                raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")
        refuse_unknown_device(self.device)
        pick_dtype(self.dtype, torch.device("cpu"))
        self.pick_impl(torch.device("cpu"))

    def _bytes_scored_with(self) -> Any:
        return [self.load_layer().identity, self._other_bytes()]

    def _other_bytes(self) -> Any:
        other = super()._other_bytes()
        return other if self.row_fraction is None else [other, _DRAWN_BY]

    def load_layer(self, rank: int | None = None) -> FirstLayer:
        """Returns the model's first layer on this process's device, loading it on the first call."""
        convention = get_convention(self.convention)
        return load_first_layer(
            self.model_ref,
            dtype=self.dtype or convention.dtype,
            device=self.device,
            rank=rank,
            rope_theta=self.rope_theta or convention.rope_theta,
            rope_scaling=self.rope_scaling,
        )

    @property
    def scale(self) -> dict[str, Any]:
        """What the scale of the scores depends on, as plain values: the layer, the tokenizer and the settings."""
        identity = self.load_layer().identity
        return {
            "tensors": identity["sha256"],
            "settings": identity["config_sha256"],
            "rope": identity["rope"],
            "tokenizer": identify_tokenizer(self.tokenizer_ref),
            "convention": self.convention,
            "window_tokens": self.window_tokens,
            "min_distance": self.min_distance,
            "bos": len(self._bos_prefix()) > 0,
        }

    def prepare(self) -> None:
        """Loads all that scoring needs, and tries the implementation; raises ValueError where one cannot be used."""
        layer = self.load_layer()
        self.load_tokenizer()
        try_impl(self.impl, layer.device, layer.dtype, probability_dtype=self._probability_dtype)

    def token_ids(self, window: Mapping[str, Any]) -> np.ndarray:
        """Returns the ids, int64 `[T]`, of one window with BOS where it gets one; ValueError where none are usable."""
        column = self.column_of(window)
        batch = {name: [value] for name, value in window.items()}
        ids, reasons = self._usable_rows(batch, column, None)
        if not ids:
            raise ValueError(f"The window's column {column!r} is unusable: {reasons[0]}.")
        return np.concatenate([self._bos_prefix(), ids[0]]).astype(np.int64)

    def pick_impl(self, device: torch.device) -> str:
        """Names the attention implementation that this scorer uses on a device."""
        return pick_impl(self.impl, device, probability_dtype=self._probability_dtype)

    @property
    def _probability_dtype(self) -> torch.dtype | None:
        name = get_convention(self.convention).probability_dtype
        return getattr(torch, name) if name else None

    def read_as_declared(self, ids_BT: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Returns what the model is given for windows of equal lengths, and how its map is read."""
        convention = get_convention(self.convention)
        return released.read(
            ids_BT, convention, self.load_tokenizer() if convention.pads else None, self.window_tokens
        )

    @property
    def added_columns(self) -> Mapping[str, pa.DataType]:
        """Strength, uniformity and variance, and what `row_fraction` and `per_head` add to them."""
        errors = [f"{name}{STANDARD_ERROR}" for name in _PAPERS_SCORES] if self.row_fraction is not None else []
        heads = [f"{name}{PER_HEAD}" for name in _PAPERS_SCORES] if self.per_head else []
        return dict.fromkeys((*SCORE_FEATURES, *errors), pa.float64()) | dict.fromkeys(heads, pa.list_(pa.float64()))

    @property
    def readable_columns(self) -> tuple[str, ...]:
        """Ids, else the text; the text alone where the convention tokenises it again."""
        if get_convention(self.convention).encodes_text_again:
            return (self.text_column,)
        return (INPUT_IDS, self.text_column)

    def _read(self, column: str, values: list[Any]) -> Sequence[np.ndarray]:
        return [np.asarray(ids) for ids in values] if column == INPUT_IDS else self._tokenise(values)

    def _why_refused(self, value: np.ndarray, rank: int | None) -> str | None:
        if self.window_tokens is not None and len(value) > self.window_tokens:
            return f"longer than the window ({len(value)} of at most {self.window_tokens} tokens)"
        if reason := why_not_ids(value, self.load_layer(rank).vocab_size):
            return reason
        # without a far pair strength and uniformity would be those of a formula, and the best there are
        least = max(1, len(value) // 4) if self.min_distance is None else self.min_distance
        if len(value) < 4 * (self.min_distance is None) or len(value) <= least:
            return f"too short ({len(value)} tokens, none of them {least} apart)"
        ids = np.concatenate([self._bos_prefix(), value]).astype(np.int64)
        return why_out_of_reach(self.read_as_declared(torch.from_numpy(ids)[None])[0], self.load_layer(rank))

    def _tokenise(self, texts: list[str]) -> list[np.ndarray]:
        if not texts:
            return []
        if get_convention(self.convention).encodes_text_again:
            encoded = released.encode_again(texts, self.load_tokenizer(), self.window_tokens)
        else:
            encoded = tokenise(self.load_tokenizer(), texts)
        return [np.array(ids, dtype=np.int64) for ids in encoded["input_ids"]]

    def _bos_prefix(self) -> np.ndarray:
        none = np.empty(0, dtype=np.int64)
        if get_convention(self.convention).encodes_text_again or self.add_bos is False:
            return none
        tokenizer = self.load_tokenizer()
        bos = tokenizer.bos_token_id
        if self.add_bos and bos is None:
            name = self.tokenizer_ref.title
            raise ValueError(f"add_bos=True, but the tokenizer of {name!r} has no BOS token; pass add_bos=False.")
        adds = self.add_bos or (bos is not None and tokenizer("")["input_ids"][:1] == [bos])
        return np.array([bos], dtype=np.int64) if adds else none

    def _score_rows(self, values: Mapping[int, np.ndarray], rank: int | None) -> dict[int, dict[str, Any]]:
        if not values:
            return {}
        prefix = self._bos_prefix()
        ids = {row: np.concatenate([prefix, row_ids]) for row, row_ids in values.items()}
        return {row: self._cells(scores) for row, scores in self._score(ids, self.load_layer(rank)).items()}

    def _cells(self, scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Turns a window's scores per head into what stands in its row."""
        cells: dict[str, Any] = {name: float(of_heads.mean()) for name, of_heads in scores.items()}
        if self.per_head:
            cells |= {f"{name}{PER_HEAD}": scores[name].tolist() for name in _PAPERS_SCORES}
        return cells

    def _score(self, ids: Mapping[int, np.ndarray], layer: FirstLayer) -> dict[int, dict[str, np.ndarray]]:
        """Scores rows of ids; returns, row by row, each score per head. Results leave the device once."""
        rows, results = [], []
        least = self.window_tokens or 0 if get_convention(self.convention).pads else 0
        for group in equal_lengths(ids, self.batch_tokens, on_cpu=layer.device.type == "cpu", padded_to=least):
            stacked = torch.from_numpy(np.stack([ids[row] for row in group]).astype(np.int64, copy=False))
            rows += group
            results.append(self._score_group(stacked, layer))
        names = list(results[0])
        stacked_NBH = torch.stack([torch.cat([result[name] for result in results]) for name in names]).cpu().numpy()
        if not np.isfinite(stacked_NBH).all():
            bad = rows[int(np.argwhere(~np.isfinite(stacked_NBH))[0][1])]
            raise ValueError(
                f"The score of row {bad} is not finite: the model's weights or activations overflow in {layer.dtype}. "
                "Check the checkpoint, or score with dtype='float32'."
            )
        return {row: dict(zip(names, stacked_NBH[:, at], strict=True)) for at, row in enumerate(rows)}

    def _score_group(self, ids_BT: Tensor, layer: FirstLayer) -> dict[str, Tensor]:
        ids_BT, reading = self.read_as_declared(ids_BT)
        if layer.device.type == "cuda":
            ids_BT = ids_BT.pin_memory().to(layer.device, non_blocking=True)
        num_tokens = ids_BT.shape[1]
        min_distance = self.min_distance if self.min_distance is not None else num_tokens // 4
        with torch.inference_mode():
            q, k, scale = layer.query_key(ids_BT)
            settings: dict[str, Any] = {"min_distance": min_distance, "scale": scale, "impl": self.impl}
            if self.row_fraction is None:
                far = far_attention(q, k, **reading, **settings)
                return map_scores(far, num_tokens, min_distance)
            sampled = sampled_far_attention(q, k, row_fraction=self.row_fraction, seed=self.seed, **settings)
            scores = map_scores(sampled.far, num_tokens, min_distance)
            # an error is that of the mean over heads: the same beside each
            errors = (sampled.dependency_strength_error, sampled.distribution_uniformity_error)
            return scores | {
                f"{name}{STANDARD_ERROR}": error_B[:, None].expand_as(scores[name])
                for name, error_B in zip(_PAPERS_SCORES, errors, strict=True)
            }


#: A scorer with the paper's defaults, for `ds.map(longattn_score)`.
longattn_score = LongAttnScorer(os.environ.get("LONGATTN_MODEL", DEFAULT_MODEL))
