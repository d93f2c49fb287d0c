"""A build's settings: one flat dataclass, filled from a YAML file and the command line."""

import math
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from longattn_hf.baselines.by_name import LONGATTN
from longattn_hf.hub.layout import SCORES, check_configuration
from longattn_hf.method import get_convention
from longattn_hf.pipeline.choice import ScorerChoice
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.packaged_configs import find_config
from longattn_hf.pipeline.settings import (
    Several,
    Texts,
    check_settings,
    each,
    read_yaml,
    settings,
)
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.selection.certify import refuse_uncertain
from longattn_hf.selection.cut import LIMITS, Selection
from longattn_hf.selection.standardisation import ScoreStatistics
from longattn_hf.selection.steps import FIRST_FRACTION

# may change on a scored corpus; scorers that come later score what is there
_SELECTION = (
    "scorers", "select_by", "combine", "gate", "temperature", "draw_seed", "alpha", *LIMITS, "refuse_overlap",
    "certify", "confidence", "statistics",
)  # fmt: skip
_CARD = ("pretty_name", "description", "data_version", "language")
_HUB = ("push_to_hub", "hub_revision", "create_pr", "private", "tag", "dry_run")
#: The settings that change nothing of the finished dataset.
THIS_RUN = ("output_dir", "overwrite", "batch_tokens", "engine", "address", "workers", *_HUB)


@settings
class BuildConfig:
    """All settings of a build.

    Those from `scorers` on may change on a scored corpus; the others are fixed once an output folder holds shards.

    Attributes:
        name: The dataset's name, for its card.
        model: A Hub id, a local directory, a GGUF file, or `package:NAME/FILE` for a file an installed package brings.
        sources: Where the documents come from; see `SourceConfig`.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        convention: `paper`, `reference_code` or `reference_code_causal`.
        window_tokens: The windows' length.
        min_distance: The paper's k; a quarter of the window if None.
        rope_theta: A RoPE base in place of the model's own.
        rope_scaling: A RoPE scaling in place of the model's own.
        dtype: The weights' dtype; None lets the device decide.
        impl: The attention implementation.
        add_bos: Put BOS before each window; None does as the tokenizer does.
        row_fraction: Score a random share of the query rows and record standard errors; None scores all, exactly.
        seed: Of that drawing.
        per_head: Keep the scores of each head too.
        on_error: What a bad document or window does: `raise`, or `skip` with a reason and a count.
        max_document_characters: Longer documents are bad ones; None for no limit.
        documents_per_shard: Documents per resumable piece of work.
        scorers: What scores the windows: names of scorers, or a mapping of names to their own settings. `longattn`
            has those above; the others are `echo`, `far_gain`, `word_gain`, `compression_gain`, `kind`, `gzip`,
            `length`, `random`, and, of the model above, `loss_gain`, `prolong`, `ladm`, `deep` and `deep_far`. Each
            has its own shards, and can be added later.
        select_by: The scorer that ranks windows, or a mapping of scorers to weights; the first scorer if None.
        combine: What a weighted sum is of: `zscore` or `rank`.
        gate: Refuse windows by other scores: a scorer, or a mapping of scorers to the least value that is let through;
            `kind` alone lets through what is of the kinds of text that it was calibrated on.
        temperature: Above 0, windows are drawn at random, the better the likelier; 0 keeps the best.
        draw_seed: Of that draw.
        alpha: The weight of the distribution uniformity.
        threshold: Keep windows above this score; a number, or one for each category.
        fraction: Keep this share; a number, or one for each category.
        token_budget: Keep this many tokens of each category; a number, or one for each category.
        total_token_budget: Keep this many tokens of all categories together, about the same share of each.
        refuse_overlap: Leave out windows that share tokens with better ones.
        certify: Score all windows from sampled rows (`row_fraction`, a sixteenth if None), and from a quarter or all
            of them only where the cut hangs on it; it is then right on its scale with the probability `confidence`.
        confidence: Of a certified cut, in (0, 1); it also bounds the share that an exact scale would exchange.
        statistics: A `statistics.json` of another build, to score on its scale.
        pretty_name: The card's title.
        description: The card's first paragraph.
        data_version: The dataset's version.
        language: Language codes for the card.
        output_dir: Where everything goes, a folder or one in a store, `s3://bucket/folder`; `out/NAME` if None.
        overwrite: Discard what another configuration left in the output folder.
        batch_tokens: Tokens scored together; on a CPU at most 8,192 are.
        engine: What launches the work: `ray`; the processes that were launched together if None.
        address: The engine's cluster, as `ray.init` takes it; a cluster of this machine alone if None.
        workers: How many workers the engine has at once; one for each GPU, or CPU, of its cluster if None.
        push_to_hub: Publish the finished build in this dataset repository, `owner/name`.
        hub_revision: The branch to publish on; main if None.
        create_pr: Open a pull request there instead.
        private: Whether a repository that is made is private.
        tag: The tag of this release there.
        dry_run: Only say what would be published.
    """

    GROUPS: ClassVar[dict[str, str]] = {
        "name": "what is built",
        "convention": "windows and LongAttn's score (fixed once the output folder holds shards)",
        "scorers": "scores and selection (may change on a scored corpus)",
        "pretty_name": "card",
        "output_dir": "this run",
        "push_to_hub": "publishing",
    }

    name: str
    model: str
    sources: Annotated[Several[SourceConfig], each(SourceConfig, "a source")]
    revision: str | None = None
    gguf_file: str | None = None
    convention: str = "paper"
    window_tokens: int = 32768
    min_distance: int | None = None
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    impl: Literal["auto", "reference", "blockwise", "fused"] = "auto"
    add_bos: bool | None = None
    row_fraction: float | None = None
    seed: int = 0
    per_head: bool = False
    on_error: Literal["raise", "skip"] = "skip"
    max_document_characters: int | None = None
    documents_per_shard: int = 64
    scorers: Texts | dict[str, dict[str, Any] | None] = field(default_factory=lambda: ["longattn"])
    select_by: str | dict[str, float] | None = None
    combine: Literal["zscore", "rank"] = "zscore"
    gate: str | dict[str, float] = field(default_factory=dict)
    temperature: float = 0.0
    draw_seed: int = 0
    alpha: float = 0.5
    threshold: float | dict[str | int, float] | None = None
    fraction: float | dict[str | int, float] | None = None
    token_budget: int | dict[str | int, int] | None = None
    total_token_budget: int | None = None
    refuse_overlap: bool = False
    certify: bool = False
    confidence: float = 0.99
    statistics: str | None = None
    pretty_name: str | None = None
    description: str = ""
    data_version: str = "1.0.0"
    language: Texts = field(default_factory=lambda: ["en"])
    output_dir: str | None = None
    overwrite: bool = False
    batch_tokens: int = 65536
    engine: Literal["ray"] | None = None
    address: str | None = None
    workers: int | None = None
    push_to_hub: str | None = None
    hub_revision: str | None = None
    create_pr: bool = False
    private: bool | None = None
    tag: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("The configuration names no sources; give at least one with category and path.")
        check_configuration(self.name, "give the dataset another name")
        for category in self.categories:
            check_configuration(category, "give the source another category")
            if category == SCORES:
                raise ValueError(
                    f"The category {category!r} is the name of the scores' own configuration; choose another."
                )
        for name in ("window_tokens", "documents_per_shard", "batch_tokens", "max_document_characters"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        for name, value in {"row_fraction": self.row_fraction, "rope_theta": self.rope_theta}.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be a number above 0.")
        if self.row_fraction is not None and self.row_fraction > 1:
            raise ValueError(f"row_fraction={self.row_fraction} must be at most 1.")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be an integer of 64 bits.")
        if self.dry_run and not self.push_to_hub:
            raise ValueError("dry_run says what would be published, and nothing is: give push_to_hub too.")
        if self.push_to_hub:
            # the Hub's client, which the others do not need
            from longattn_hf.hub.access import check_target

            check_target(self.push_to_hub, revision=self.hub_revision, create_pr=self.create_pr, tag=self.tag)
        if not 0 <= self.resolved_min_distance < self.window_tokens:
            raise ValueError(
                f"min_distance={self.min_distance} must lie in [0, window_tokens), here [0, {self.window_tokens})."
            )
        if not any(getattr(self, name) is not None for name in LIMITS):
            object.__setattr__(self, "fraction", get_convention(self.convention).fraction)
        if self._selection(None) and self.certify:
            refuse_uncertain(self._selection(None), self.confidence)
        if self.statistics and LONGATTN not in self.choice.scorers:
            raise ValueError("statistics are a scale of LongAttn's scores, and the scorers do not name longattn.")

    @property
    def choice(self) -> ScorerChoice:
        """Which scorers there are, and which of them decide."""
        return ScorerChoice.of(self.scorers, self.select_by, self.gate)

    @property
    def selection(self) -> Selection:
        """How to select; reads `statistics`."""
        return self._selection(ScoreStatistics.load(self.statistics) if self.statistics else None)

    def _selection(self, statistics: ScoreStatistics | None) -> Selection:
        names = ("alpha", "convention", *LIMITS, "refuse_overlap", "combine", "temperature")
        values = {name: getattr(self, name) for name in names}
        selection = Selection(**values, seed=self.draw_seed, statistics=statistics, **self.choice.columns)
        selection.check_categories(self.categories)
        return selection

    @property
    def work(self) -> dict[str, Any]:
        """The settings that windows and scores depend on."""
        values = asdict(self) | {"row_fraction": self.first_fraction}
        return {n: v for n, v in values.items() if n not in (*_SELECTION, *_CARD, *THIS_RUN)}

    @property
    def choosing(self) -> dict[str, Any]:
        """The settings that may change on a scored corpus: scorers and selection."""
        return {name: value for name, value in asdict(self).items() if name in _SELECTION}

    @property
    def first_fraction(self) -> float | None:
        """The share of the query rows that all windows are scored from; None for all rows."""
        return FIRST_FRACTION if self.certify and self.row_fraction is None else self.row_fraction

    @property
    def result(self) -> dict[str, Any]:
        """The settings that the finished dataset depends on."""
        return {name: value for name, value in asdict(self).items() if name not in THIS_RUN}

    @property
    def resolved_min_distance(self) -> int:
        """The paper's k in tokens."""
        return self.window_tokens // 4 if self.min_distance is None else self.min_distance

    @property
    def build_folder(self) -> BuildFolder:
        """The output folder; raises as `open_folder`."""
        from longattn_hf.pipeline.storage import open_folder

        return open_folder(self.output_dir or f"out/{self.name}")

    @property
    def folder(self) -> Path:
        """Where it is on this machine."""
        return self.build_folder.path

    @property
    def categories(self) -> list[str]:
        """The categories, in the order of the sources."""
        return list(dict.fromkeys(source.category for source in self.sources))


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> BuildConfig:
    """Reads a YAML file of settings.

    Args:
        path: The file, or the name of a recipe that the package brings.
        overrides: Settings that go before the file's.

    Raises:
        ValueError: The file is missing or no mapping, or a key, a type or a value is not one of `BuildConfig`'s.
    """
    path = find_config(path)
    overrides, values = dict(overrides or {}), read_yaml(path)
    if any(overrides.get(name) is not None for name in LIMITS):
        # a limit goes before that of the file, whichever it is
        values = {name: value for name, value in values.items() if name not in LIMITS}
    return check_settings(BuildConfig, values | overrides, f"the configuration {path}")
