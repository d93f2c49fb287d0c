"""A build's recipe: what of its settings a report tells, and the YAML that selects what the explorer shows."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import yaml
from datasets import Features, Value

from longattn_hf.baselines.by_name import FOUND, LONGATTN, SCORERS, ranking_column
from longattn_hf.columns import (
    CATEGORY,
    INPUT_IDS,
    KEPT,
    LICENSE,
    LONG_DISTANCE_SCORE,
    ROW_FRACTION,
    SELECTION_SCORE,
    SOURCE,
    TEXT,
)
from longattn_hf.columns.features import WINDOW_FEATURES
from longattn_hf.hub.layout import SCORES
from longattn_hf.model.location import ModelRef
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.output import plan_files
from longattn_hf.pipeline.scoring import make_scorers
from longattn_hf.pipeline.source_config import hide_paths
from longattn_hf.pipeline.sources import DEMO
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import LONGATTN_SCORES, ConfigurationFacts, ModelFacts, SourceFacts
from longattn_hf.selection.cut import LIMITS, Selection

# what a selection alone is of, beside its limit
_CHOICE = ("scorers", "select_by", "combine", "gate", "temperature", "draw_seed")
# settings of a build, and what its report calls them
_CARD = {"pretty_name": "pretty_name", "description": "description", "data_version": "version", "language": "language"}


def plan_report(config: BuildConfig, words: str = "") -> Report:
    """Returns the report of a recipe before its run.

    Args:
        config: The recipe.
        words: Those behind the command that runs it.
    """
    model = ModelRef(config.model, config.revision, config.gguf_file).title
    hidden = ("sources", "name", "pretty_name", "description", "data_version", "language")
    settings = {name: hide_paths(value) for name, value in config.result.items() if name not in hidden}
    return Report(
        name=config.name,
        pretty_name=config.pretty_name or config.name,
        version=config.data_version,
        description=config.description,
        language=list(config.language),
        tags=["long-context", "data-selection", "longattn"],
        command=" ".join(["accelerate launch -m longattn_hf.pipeline", words]).strip(),
        convention=config.convention,
        settings=settings | {"model": model, "min_distance": config.resolved_min_distance},
        not_default=_not_default(config, settings),
        scores=score_columns(config),
        ranked_by=config.selection.ranked_by,
        found=" ".join(dict.fromkeys(FOUND[name] for name in config.choice.weights)),
        # datasets takes that of this name for the default, said or not
        default_config="default" if "default" in config.categories else config.categories[0],
        recipe=shareable_recipe(config),
        not_run=True,
        model=ModelFacts(model=model),
        categories=dict.fromkeys(config.categories),
        sources=[
            SourceFacts(source=one.source or one.path, license=one.license or "unknown", category=one.category)
            for one in config.sources
        ],
        configs=_plan_configurations(config),
    )


def _not_default(config: BuildConfig, names: Iterable[str]) -> list[str]:
    """Returns those of the settings that are not as they would be without a word; a factory makes a default anew."""
    defaults = {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in fields(config)
    }
    defaults["min_distance"] = config.window_tokens // 4
    given = vars(config) | {"min_distance": config.resolved_min_distance}
    return [name for name in names if given[name] != defaults[name]]


def added_features(config: BuildConfig) -> dict[str, Any]:
    """Returns the columns that scoring and selection add to a kept window, with their features."""
    scorers = make_scorers(config)
    added = [(name, kind) for scorer in scorers.values() for name, kind in scorer.added_columns.items()]
    added += [(LONG_DISTANCE_SCORE, pa.float64())] if LONGATTN in scorers else []
    added += [(ROW_FRACTION, pa.float64())] if config.certify else []
    added += [(SELECTION_SCORE, pa.float64())] if config.choice.is_sum else []
    return dict(Features.from_arrow_schema(pa.schema(added)))


def score_columns(config: BuildConfig) -> list[str]:
    """Returns the columns of a build's scores, in a card's order: what ranks first."""
    columns = [config.selection.ranked_by]
    for name in config.choice.scorers:
        columns += LONGATTN_SCORES if name == LONGATTN else [ranking_column(name)]
    # the long-distance score stands behind what it is made of
    if columns[0] == LONG_DISTANCE_SCORE:
        columns.pop(0)
    return list(dict.fromkeys(columns))


def _plan_configurations(config: BuildConfig) -> dict[str, ConfigurationFacts]:
    """Returns the configurations that a build would leave: where their files would be, and their columns."""
    nothing = {CATEGORY: pa.string(), KEPT: pa.bool_(), "start_char": pa.int64(), "end_char": pa.int64()}
    windows = {name: feature for name, feature in WINDOW_FEATURES.items() if name != INPUT_IDS}
    carried = dict.fromkeys((SOURCE, LICENSE, CATEGORY), Value("string"))
    kept = windows | carried | added_features(config)
    scores = {name: feature for name, feature in (kept | {KEPT: Value("bool")}).items() if name != TEXT}
    return {
        file.config: ConfigurationFacts(
            data_files=f"{PurePosixPath(file.path).parent}/train-*.parquet",
            features=Features(scores if file.config == SCORES else kept)._to_yaml_list(),
        )
        for file in plan_files(pa.schema(nothing.items()).empty_table(), config.categories)
    }


def shareable_recipe(config: BuildConfig) -> dict[str, Any]:
    """Returns what others need to build the same: name, model, sources; empty where one of them is a local file."""
    named = [config.model]
    for source in config.sources:
        files = [source.data_files] if isinstance(source.data_files, str) else [*(source.data_files or ())]
        # a format reads files of anywhere, a dataset those of its own
        if "/" not in source.path:
            named += [str(file) for file in (*files, source.data_dir) if file and "://" not in str(file)]
        if source.path != DEMO:
            named.append(source.path)
    if any(Path(name).exists() or glob(name) for name in named):
        return {}
    sources = [{name: value for name, value in asdict(one).items() if value is not None} for one in config.sources]
    # as JSON has them, which knows no tuples
    return json.loads(
        json.dumps({"name": config.name, "model": config.model, "impl": config.impl, "sources": sources})
    )


def write_recipe(
    name: str, count: int, settings: Mapping[str, Any], report: Report | None, selection: Selection
) -> str:
    """Returns YAML that `load_config` reads and that selects what `selection` selects.

    Where the dataset does not say what it was built from, the YAML holds the selection alone, and says so.

    Args:
        name: The dataset's.
        count: How many windows it has.
        settings: Those of its build, as far as they are known.
        report: That of its build.
        selection: How to select.

    Raises:
        ValueError: The selection is of another convention: its numbers would need another scoring run.
    """
    convention = settings.get("convention", "paper")
    if selection.convention != convention:
        raise ValueError(f"The windows were scored as {convention!r}; {selection.convention!r} is a comparison.")
    head = f"# What the explorer showed of {name}: {count:,} windows.\n"
    chosen = {"alpha": selection.alpha, "convention": convention, "refuse_overlap": selection.refuse_overlap}
    # a cut of a drawn build is no draw
    chosen |= {"temperature": selection.temperature} if settings.get("temperature") else {}
    if selection.score in (columns := {ranking_column(name): name for name in SCORERS}) and settings.get("scorers"):
        chosen["select_by"] = columns[str(selection.score)]
    known, sources = {name: settings[name] for name in _CHOICE if settings.get(name)}, settings.get("sources")
    if sources:
        known = {name: value for name, value in settings.items() if name not in (*LIMITS, "sources")}
        known |= {name: getattr(report, key) for name, key in _CARD.items() if report}
    else:
        head += "# The dataset does not say what it was built from; add these settings to its recipe.\n"
    values = {name: value for name, value in (known | chosen | selection.limit).items() if value is not None}
    if sources:
        values["sources"] = [
            {name: value for name, value in source.items() if value is not None and value is not False}
            for source in sources
        ]
    # by way of JSON: YAML's own writer knows no tuples
    return head + yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True)
