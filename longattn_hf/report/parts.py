"""The kinds of facts that a report is made of: plain values, of one category, source, model or example each."""

from dataclasses import field
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, StringConstraints
from pydantic.dataclasses import dataclass

from longattn_hf.columns import DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, LONG_DISTANCE_SCORE, MAP_VARIANCE

#: The scores of the paper, in a card's order.
LONGATTN_SCORES = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE, LONG_DISTANCE_SCORE)

#: A text with something in it.
Text = Annotated[str, StringConstraints(min_length=1)]
_T = TypeVar("_T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def fact_type(kind: type[_T]) -> type[_T]:
    """Makes a class one of facts: its values are checked, and unknown ones of later versions left out."""
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="ignore"))(kind)  # type: ignore[return-value]


@fact_type
class Spread:
    """The range of a score over the scored windows of a category; None where there are none."""

    min: float | None
    mean: float | None
    max: float | None
    std: float | None


@fact_type
class CategoryFacts:
    """One category of a finished build.

    Attributes:
        documents: How many were read.
        skipped: Those that gave no window, by reason.
        windows: How many were cut.
        windows_skipped: Those without scores, by reason.
        tokens: Those of all windows.
        kept_windows: How many were selected.
        kept_tokens: Their tokens.
        kept_documents: The documents they are of.
        cut: The lowest score kept, of those that ranked; None where nothing is.
        scores: The range of each score.
        refused: The windows that a gate refused, by reason.
        tied: The windows that share the lowest score kept, where not all of these are kept; 0 where all are.
    """

    documents: int
    skipped: dict[str, int]
    windows: int
    windows_skipped: dict[str, int]
    tokens: int
    kept_windows: int
    kept_tokens: int
    kept_documents: int
    cut: float | None
    scores: dict[str, Spread]
    refused: dict[str, int] = field(default_factory=dict)
    tied: int = 0


@fact_type
class StepFacts:
    """The windows whose finest scores are of one share of their rows: how many of them are kept, and how many not."""

    row_fraction: float
    kept: int
    dropped: int


@fact_type
class CertificateFacts:
    """How sure a category's cut by sampled scores is; see `longattn_hf.selection.certify.Doubt`."""

    steps: list[StepFacts]
    wrong: float
    moved: float

    @property
    def mostly_exact(self) -> bool:
        """Whether most windows were read whole, so that exact scores of all would have cost about as much or less."""
        counts = {step.row_fraction: step.kept + step.dropped for step in self.steps}
        return 2 * counts.get(1.0, 0) > sum(counts.values())


@fact_type
class SourceFacts:
    """One source of one category: a dataset's id or `package==version`, and its licence (SPDX), None if unstated."""

    source: Text
    license: Text | None
    category: Text
    documents: int | None = None
    windows: int | None = None
    kept_windows: int | None = None


@fact_type
class ModelFacts:
    """The first layer that scored; `revision` is None for local files.

    `sha256` is that of the tensors read, `config_sha256` that of the layer's settings.

    Where LongAttn did not score, the model is the one whose tokenizer cut the windows.
    """

    model: Text
    revision: Text | None = None
    sha256: Text | None = None
    config_sha256: Text | None = None
    dtype: Text | None = None
    rope: dict[str, Any] | None = None
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    architecture: Text | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    max_positions: int | None = None


@fact_type
class ConfigurationFacts:
    """One configuration of the dataset: where its files are, its columns as `datasets` writes them, and its size."""

    data_files: Text
    num_rows: int | None = None
    num_bytes: int | None = None
    download_size: int | None = None
    features: list[dict[str, Any]]


@fact_type
class Example:
    """A window with its scores, None where it has none, and a passage of it.

    Attributes:
        id: The window's.
        source: Its document's.
        scores: By name.
        excerpt: A piece of its text.
        far_share: The mean share of the attention of the excerpt's tokens that is far, where attention picked it.
    """

    id: Text
    source: Text
    scores: dict[str, float | None]
    excerpt: str
    far_share: float | None = None


@fact_type
class CategoryAgreement:
    """How alike two scores rank a category's windows.

    Attributes:
        spearman: The rank correlation.
        kept_overlap: The share of the windows kept that the other would have kept too.
        only_here: The window that is kept and that the other ranks lowest beside its rank here; None if that is none.
        only_there: The window that is not kept and that the other ranks highest beside its rank here.
    """

    spearman: float | None
    kept_overlap: float | None
    only_here: Example | None = None
    only_there: Example | None = None


@fact_type
class Agreement:
    """How the other convention would have ranked the same windows, by category."""

    other_convention: Text
    categories: dict[str, CategoryAgreement]


@fact_type
class Extremes:
    """The windows at both ends of a category's scores, the best and the worst last."""

    highest: list[Example]
    lowest: list[Example]
