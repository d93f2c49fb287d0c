"""A build's facts, from which card, figures, page and the terminal's table are made; as JSON, `report.json`.

A report holds plain values only, no times and no local paths, so equal builds have equal reports. A recipe that was
not run has a report too: what only a run can tell is None there.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from longattn_hf.columns import LONG_DISTANCE_SCORE
from longattn_hf.method import get_convention
from longattn_hf.report.parts import (
    Agreement,
    CategoryAgreement,
    CategoryFacts,
    CertificateFacts,
    ConfigurationFacts,
    Example,
    Extremes,
    ModelFacts,
    SourceFacts,
    Text,
    fact_type,
)
from longattn_hf.selection.cautions import caution

_BUILD_AGAIN = "and the card states it; build the report again."


@fact_type
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
        not_default: The settings that are not as they are by default; None if that is not known.
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

    name: Text
    pretty_name: Text
    version: Text
    description: str
    language: list[Text]
    tags: list[Text]
    command: Text
    convention: Text
    settings: dict[str, Any]
    not_default: list[Text] | None = None
    scores: list[Text]
    ranked_by: Text
    found: str = ""
    default_config: Text
    recipe: dict[str, Any] | None = None
    not_run: bool = False
    software: dict[str, Text] | None = None
    model: ModelFacts
    categories: dict[str, Annotated[CategoryFacts | None, BeforeValidator(lambda facts: facts or None)]]
    sources: list[SourceFacts]
    certificate: dict[str, CertificateFacts] | None = None
    agreement: Agreement | None = None
    others: dict[str, dict[str, CategoryAgreement]] | None = None
    examples: dict[str, Extremes] | None = None
    refused: dict[str, list[Example]] | None = None
    configs: dict[str, ConfigurationFacts]
    figures: list[Text] | None = None
    page: Text | None = None
    repo_id: Text | None = None

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

    @property
    def cautions(self) -> list[str]:
        """What a reader should know of how the windows were selected, in sentences."""
        return [
            sentence
            for name, facts in self.run_categories.items()
            for sentence in caution(
                name,
                facts.windows,
                unscored=sum(facts.windows_skipped.values()),
                tied=facts.tied,
                refused=facts.refused,
                score=self.ranked_by,
            )
        ]

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
        absent = {
            name
            for name in ("not_run", "recipe", "certificate", "page", "repo_id", "not_default")
            if not getattr(self, name)
        }
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
