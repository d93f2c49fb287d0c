"""A build's facts, from which card, figures, page and the terminal's table are made; as JSON, `report.json`.

A report holds plain values only, no times and no local paths, so equal builds have equal reports. A recipe that was
not run has a report too: what only a run can tell is None there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from longattn_hf.columns import DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, LONG_DISTANCE_SCORE, MAP_VARIANCE
from longattn_hf.method import get_convention

#: The scores of the paper, in a card's order.
LONGATTN_SCORES = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE, LONG_DISTANCE_SCORE)

_BUILD_AGAIN = "and the card states it; build the report again."

_Text = Annotated[str, StringConstraints(min_length=1)]
_T = TypeVar("_T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def _facts(kind: type[_T]) -> type[_T]:
    # a report of a later version may hold more
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="ignore"))(kind)  # type: ignore[return-value]


@_facts
class Spread:
    """The range of a score over the scored windows of a category; None where there are none."""

    min: float | None
    mean: float | None
    max: float | None
    std: float | None


@_facts
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


@_facts
class StepFacts:
    """The windows whose finest scores are of one share of their rows: how many of them are kept, and how many not."""

    row_fraction: float
    kept: int
    dropped: int


@_facts
class CertificateFacts:
    """How sure a category's cut by sampled scores is; see `longattn_hf.selection.certify.Doubt`."""

    steps: list[StepFacts]
    wrong: float
    moved: float


@_facts
class SourceFacts:
    """One source of one category: a dataset's id or `package==version`, and its licence (SPDX), None if unstated."""

    source: _Text
    license: _Text | None
    category: _Text
    documents: int | None = None
    windows: int | None = None
    kept_windows: int | None = None


@_facts
class ModelFacts:
    """The first layer that scored; `sha256` is that of the tensors read, `revision` None for local files.

    Where LongAttn did not score, the model is the one whose tokenizer cut the windows.
    """

    model: _Text
    revision: _Text | None = None
    sha256: _Text | None = None
    dtype: _Text | None = None
    rope: dict[str, Any] | None = None
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    architecture: _Text | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    max_positions: int | None = None


@_facts
class ConfigurationFacts:
    """One configuration of the dataset: where its files are, its columns as `datasets` writes them, and its size."""

    data_files: _Text
    num_rows: int | None = None
    num_bytes: int | None = None
    download_size: int | None = None
    features: list[dict[str, Any]]


@_facts
class Example:
    """A window with its scores, None where it has none, and the beginning of its text."""

    id: _Text
    source: _Text
    scores: dict[str, float | None]
    excerpt: str


@_facts
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


@_facts
class Agreement:
    """How the other convention would have ranked the same windows, by category."""

    other_convention: _Text
    categories: dict[str, CategoryAgreement]


@_facts
class Extremes:
    """The windows at both ends of a category's scores, the best and the worst last."""

    highest: list[Example]
    lowest: list[Example]


@_facts
class Report:
    """All facts of a build, or of a recipe that was not run.

    Attributes:
        name: The dataset's.
        pretty_name: The card's title.
        version: The dataset's.
        description: Markdown, may be empty.
        language: Language codes.
        tags: The card's.
        command: What builds the same.
        convention: One of `longattn_hf.method`.
        settings: At least `window_tokens`, `min_distance` and `alpha`; None means not set.
        scores: The columns of all scores, in a card's order.
        ranked_by: That which ranked.
        found: What is known about it, for readers.
        default_config: The configuration that `load_dataset` takes by itself.
        recipe: What the explorer needs to write one; empty where a source is a local file.
        not_run: Whether this is a recipe's; then what follows may be None.
        software: Versions, by name.
        model: The scoring layer.
        categories: By name; each None where not run.
        sources: One for each source of each category.
        certificate: How sure the cut is, by category; None where it was not certified.
        agreement: With the other convention, where LongAttn scored.
        others: What the other scores make of the same windows, by score and category.
        examples: By category.
        refused: Windows that a gate refused, by category.
        configs: By name.
        figures: Paths relative to the card.
        page: The path of the page with interactive plots; None where there is none.
        repo_id: Where the dataset is published, as far as that is known.

    Raises:
        ValueError: A run's report lacks what a run tells; the message names it.
    """

    name: _Text
    pretty_name: _Text
    version: _Text
    description: str
    language: list[_Text]
    tags: list[_Text]
    command: _Text
    convention: _Text
    settings: dict[str, Any]
    scores: list[_Text]
    ranked_by: _Text
    found: str = ""
    default_config: _Text
    recipe: dict[str, Any] | None = None
    not_run: bool = False
    software: dict[str, _Text] | None = None
    model: ModelFacts
    categories: dict[str, Annotated[CategoryFacts | None, BeforeValidator(lambda facts: facts or None)]]
    sources: list[SourceFacts]
    certificate: dict[str, CertificateFacts] | None = None
    agreement: Agreement | None = None
    others: dict[str, dict[str, CategoryAgreement]] | None = None
    examples: dict[str, Extremes] | None = None
    refused: dict[str, list[Example]] | None = None
    configs: dict[str, ConfigurationFacts]
    figures: list[_Text] | None = None
    page: _Text | None = None
    repo_id: _Text | None = None

    def __post_init__(self) -> None:
        for name in ("window_tokens", "min_distance", "alpha"):
            if self.settings.get(name) is None:
                raise ValueError(f"The report lacks settings.{name}, {_BUILD_AGAIN}")
        for path, fact in () if self.not_run else self._measured():
            if fact is None:
                raise ValueError(f"The report lacks {path}, {_BUILD_AGAIN}")

    def _measured(self) -> Iterator[tuple[str, Any]]:
        """Yields what only a run can tell, with its place in the report."""
        yield from ((name, getattr(self, name)) for name in ("software", "others", "examples", "refused", "figures"))
        if self.has_longattn:
            yield "agreement", self.agreement
            yield from ((f"model.{name}", getattr(self.model, name)) for name in _MODEL)
        yield from ((f"categories.{name}", facts) for name, facts in self.categories.items())
        for name, run in self.run_categories.items():
            yield from ((f"categories.{name}.scores.{score}", run.scores.get(score)) for score in self.scores)
        for name, ends in (self.examples or {}).items():
            for side in ("highest", "lowest"):
                for at, example in enumerate(getattr(ends, side)):
                    place = f"examples.{name}.{side}[{at}].scores"
                    # a window may have no score, and says so
                    yield from ((f"{place}.{score}", score in example.scores or None) for score in self.scores)
        for at, row in enumerate(self.sources):
            yield from ((f"sources[{at}].{name}", getattr(row, name)) for name in _COUNTS)
        for config, facts in self.configs.items():
            yield from ((f"configs.{config}.{name}", getattr(facts, name)) for name in _SIZES)

    @property
    def has_longattn(self) -> bool:
        """Whether the paper's scores are among those that there are."""
        return LONG_DISTANCE_SCORE in self.scores

    def in_words(self, score: str) -> str:
        """What a score is called, with its unit."""
        if score == LONG_DISTANCE_SCORE:
            return f"long-distance score ({get_convention(self.convention).unit} of the category)"
        return score.replace("_", " ")

    @property
    def run_categories(self) -> dict[str, CategoryFacts]:
        """The categories of a run, by name; none of a recipe that was not run."""
        return {name: facts for name, facts in self.categories.items() if facts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Report":
        """Takes a report's JSON apart.

        Raises:
            ValueError: A fact is missing, empty or of the wrong kind; the message names it.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "value_error":
                raise ValueError(str(first["ctx"]["error"])) from error
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[1:]
            complaint = "lacks {0}" if first["type"] == "missing" else "says {0} is {1!r}"
            raise ValueError(f"The report {complaint.format(path, first['input'])}, {_BUILD_AGAIN}") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> "Report":
        """Reads what `to_json` wrote; raises as `from_dict`, and where the text is no JSON mapping."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"A report is a JSON mapping, and this is {type(values).__name__}.")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values; what was not run, and what is optional and absent, is left out."""
        absent = {name for name in ("not_run", "recipe", "certificate", "page", "repo_id") if not getattr(self, name)}
        values = TypeAdapter(Report).dump_python(self, exclude=absent, exclude_none=self.not_run)
        if self.not_run:
            # null is an answer of its own in the settings
            values |= {"settings": self.settings, "categories": {name: {} for name in self.categories}}
        return values

    def to_json(self) -> str:
        """Writes the report, the same for the same facts."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


_MODEL = ("sha256", "dtype", "architecture", "num_heads", "num_kv_heads", "head_dim")
_COUNTS = ("documents", "windows", "kept_windows")
_SIZES = ("num_rows", "num_bytes", "download_size")
