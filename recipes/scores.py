"""The scores that benchmarks/planted.py compares, and what each costs in operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import rankdata

from longattn_hf.baselines import (
    CompressionGainScorer,
    DeepAttention,
    DeepFarAttention,
    FarGainScorer,
    GzipRatio,
    KindScorer,
    Ladm,
    Length,
    LossGain,
    ProLong,
    RandomScore,
)
from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, LONG_DISTANCE_SCORE
from longattn_hf.model.location import ModelRef, locate, read_config
from longattn_hf.scoring.echo import EchoScorer
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.selection.standardisation import long_distance_scores

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model that scores, and the calibration of the score that has no model; None is the package's."""

    name: str
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str | None = None
    far_gain_calibration: str | None = None

    @property
    def ref(self) -> ModelRef:
        """The model, without how it computes."""
        return ModelRef(self.name, self.revision, self.gguf_file)

    @property
    def arguments(self) -> dict[str, Any]:
        """As the transforms take them, but for the name."""
        return {"revision": self.revision, "gguf_file": self.gguf_file, "dtype": self.dtype}


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """The sizes that operations are counted from."""

    layers: int
    heads: int
    key_heads: int
    head_size: int
    hidden: int
    mlp: int
    vocabulary: int

    @classmethod
    def of(cls, model: Model) -> "ModelSizes":
        """Reads them from the model's configuration."""
        text = read_config(locate(model.ref)).get_text_config()
        return cls(
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            key_heads=text.num_key_value_heads,
            head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            hidden=text.hidden_size,
            mlp=text.intermediate_size,
            vocabulary=text.vocab_size,
        )

    def first_map(self, tokens: int) -> float:
        """Operations of the first layer's queries, keys and the causal half of their products."""
        projections = 2 * self.hidden * self.head_size * (self.heads + self.key_heads) * tokens
        return projections + self.heads * self.head_size * tokens**2

    def forward(self, tokens: int, *, logits: bool = True) -> float:
        """Operations of a whole forward pass of a gated-MLP model, attention counted as causal."""
        projections = 4 * self.hidden * self.head_size * (self.heads + self.key_heads)
        layer = (projections + 6 * self.hidden * self.mlp) * tokens + 2 * self.heads * self.head_size * tokens**2
        return self.layers * layer + (2 * self.hidden * self.vocabulary * tokens if logits else 0)


#: What the paper's smaller scorer is the first layer of.
LLAMA_8B = ModelSizes(layers=32, heads=32, key_heads=8, head_size=128, hidden=4096, mlp=14336, vocabulary=128256)
PROLONG_PAIRS = 8


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of the benchmark.

    Attributes:
        make: Makes the transform from the model.
        columns: Picks, or derives, from the added columns and the categories those to compare.
        operations: Operations a window, from the model and the window's tokens; of text, of its bytes.
    """

    make: Callable[[Model], Callable[[Mapping[str, Any]], dict[str, Any]]]
    columns: Callable[[Columns, np.ndarray], Columns] = lambda added, categories: added
    operations: Callable[[Model, int], float] = lambda model, tokens: float(tokens)


def _longattn_columns(added: Columns, categories: np.ndarray) -> Columns:
    table = pa.table({**added, CATEGORY: categories})
    return {
        DEPENDENCY_STRENGTH: added[DEPENDENCY_STRENGTH],
        DISTRIBUTION_UNIFORMITY: added[DISTRIBUTION_UNIFORMITY],
        LONG_DISTANCE_SCORE: long_distance_scores(table),
    }


def _with_middle(added: Columns, categories: np.ndarray) -> Columns:
    """Olmo 3 drops both tails: minus the distance from the category's median rank is what that rule prefers."""
    ratio = added["gzip_ratio"]
    middle = np.empty(len(ratio))
    for category in set(categories):
        here = categories == category
        ranks = (rankdata(ratio[here]) - 1) / max(here.sum() - 1, 1)
        middle[here] = -np.abs(ranks - 0.5)
    return {"gzip_ratio": ratio, "gzip_middle": middle}


def _far_gain_columns(added: Columns, categories: np.ndarray) -> Columns:
    """The score, its gain alone, the gain with the order, and the gain with the kind."""
    gain, order = added["far_gain_raw"].astype(float), added["far_gain_order"].astype(float)
    lowest = np.nanmin(gain) if len(gain) else 0.0
    return {
        "far_gain": added["far_gain"].astype(float),
        "far_gain_raw": gain,
        "far_gain_raw_and_order": (gain - lowest) * order,
        "far_gain_raw_and_kind": np.where(added["far_gain_oddness"].astype(float) > 1, lowest, gain),
    }


@dataclass(frozen=True)
class _GatedCompressionGain:
    """The gain of far context for a compressor, and what its gate asks for."""

    calibration: str | None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        gain = CompressionGainScorer(on_error="skip")(batch)
        # `kind` is a name that the windows of some benchmarks have a column of
        kind = KindScorer(calibration=self.calibration, on_error="skip")(batch)["kind"]
        return gain | {"compression_gain_kind": kind}


def _compression_gain_columns(added: Columns, categories: np.ndarray) -> Columns:
    gain, kind = added["compression_gain"].astype(float), added["compression_gain_kind"].astype(float)
    lowest = np.nanmin(gain) if len(gain) else 0.0
    return {"compression_gain": gain, "compression_gain_and_kind": np.where(kind < 0, lowest, gain)}


def _deep_columns(added: Columns, categories: np.ndarray) -> Columns:
    """The layer that is the score, and those a quarter, a half and three quarters down."""
    by_layer = added["strength_by_layer"]
    depths = [by_layer.shape[1] * quarters // 4 for quarters in (1, 2, 3)]
    return {"deep_strength": added["deep_strength"]} | {f"strength_layer_{i}": by_layer[:, i] for i in depths}


def _deep_operations(model: Model, tokens: int) -> float:
    sizes = ModelSizes.of(model)
    return sizes.forward(tokens, logits=False) + sizes.layers * sizes.heads * sizes.head_size * tokens**2


def _deep_far_operations(model: Model, tokens: int) -> float:
    sizes = ModelSizes.of(model)
    # the layers before it, and its own queries, keys and the rows that are read
    return sizes.forward(tokens, logits=False) / 2 + sizes.first_map(tokens)


def _loss_gain_operations(model: Model, tokens: int) -> float:
    sizes, block = ModelSizes.of(model), tokens // 16
    return sizes.forward(tokens) + 14 * sizes.forward(2 * block)


def _prolong_operations(model: Model, tokens: int) -> float:
    sizes, count = ModelSizes.of(model), tokens // 128
    pairs = min(PROLONG_PAIRS, count * (count - 1) // 2)
    return count * sizes.forward(128) + pairs * sizes.forward(256)


def _ladm_operations(model: Model, tokens: int) -> float:
    sizes = ModelSizes.of(model)
    maps = sizes.layers * sizes.heads * sizes.head_size * tokens**2 / 4
    return sizes.forward(tokens, logits=False) + maps


SCORES = {
    "random": Score(make=lambda model: RandomScore(), operations=lambda model, tokens: 0.0),
    "length": Score(make=lambda model: Length(), operations=lambda model, tokens: 0.0),
    "gzip": Score(make=lambda model: GzipRatio(), columns=_with_middle),
    "longattn": Score(
        make=lambda model: LongAttnScorer(model.name, **model.arguments),
        columns=_longattn_columns,
        operations=lambda model, tokens: ModelSizes.of(model).first_map(tokens),
    ),
    # about ten operations a band and word, the hashes and the table of counts
    "echo": Score(make=lambda model: EchoScorer(), operations=lambda model, tokens: 128.0 * tokens),
    # three orders, four searches of a sorted list each; the blocks' cosines and orders; the surface
    "far_gain": Score(
        make=lambda model: FarGainScorer(calibration=model.far_gain_calibration, on_error="skip"),
        columns=_far_gain_columns,
        operations=lambda model, tokens: 600.0 * tokens,
    ),
    # some hundred operations a byte, of which every part is compressed with all before it and with the one before it
    "compression_gain": Score(
        make=lambda model: _GatedCompressionGain(model.far_gain_calibration),
        columns=_compression_gain_columns,
        operations=lambda model, tokens: 3000.0 * tokens,
    ),
    "loss_gain": Score(
        make=lambda model: LossGain(model=model.name, **model.arguments), operations=_loss_gain_operations
    ),
    "prolong": Score(
        make=lambda model: ProLong(model=model.name, pairs=PROLONG_PAIRS, **model.arguments),
        operations=_prolong_operations,
    ),
    "ladm": Score(make=lambda model: Ladm(model=model.name, **model.arguments), operations=_ladm_operations),
    "deep": Score(
        make=lambda model: DeepAttention(model=model.name, **model.arguments),
        columns=_deep_columns,
        operations=_deep_operations,
    ),
    "deep_far": Score(
        make=lambda model: DeepFarAttention(model=model.name, **model.arguments), operations=_deep_far_operations
    ),
}

#: The scores that need no more of a model than its first layer.
CHEAP_SCORES = ("random", "length", "gzip", "longattn", "echo", "far_gain", "compression_gain")
