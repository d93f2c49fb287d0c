"""The dataset card, rendered from a run's report and from nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Undefined

from longattn_hf.columns import (
    DEPENDENCY_STRENGTH,
    DISTRIBUTION_UNIFORMITY,
    LONG_DISTANCE_SCORE,
    MAP_VARIANCE,
    ROW_FRACTION,
    SELECTION_SCORE,
)
from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.method import get_convention, uniform_dependency_strength
from longattn_hf.pages import text as markdown
from longattn_hf.report.card_metadata import front_matter
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import LONGATTN_SCORES, CategoryFacts, ConfigurationFacts

# the facts of the report's `model` in the card's order; what else it states stands behind them
_MODEL_FACTS = (
    "model",
    "revision",
    "sha256",
    "architecture",
    "dtype",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_positions",
    "rope",
)
_MEANINGS = {
    "id": "identifies the window: a hash of its source and place",
    "doc_id": "identifies the document that the window was cut from",
    "window_index": "place among the windows of the document, from 0, in the order of the cutting",
    "num_windows": "windows that the document gave",
    "start_char": "first character of the window in its document, from 0",
    "end_char": "the character behind the window's last one",
    "start_token": "first token of the window in its document, from 0",
    "num_tokens": "tokens in the window",
    "overlap_tokens": "tokens shared with windows of the same document cut earlier",
    "text": "the window",
    "input_ids": "its token ids, without special tokens",
    "category": "the group within which scores were standardised",
    "source": "where the document comes from",
    "license": "the licence of the source",
    DEPENDENCY_STRENGTH: "in [0, 1], larger is better: the share of the attention that falls at least k tokens back",
    DISTRIBUTION_UNIFORMITY: "at most 0, larger is better: minus the variance of the far attention",
    MAP_VARIANCE: "at least 0, smaller is better: the variance over the whole map, near entries set to zero",
    LONG_DISTANCE_SCORE: "in units of the category's standardisation, larger is better: both scores combined",
    ROW_FRACTION: "the share of the window's tokens whose attention its scores were read from",
    "echo": "at least 0, larger is better: how far the window's words are foretold by its earlier words, near and far",
    "far_gain": "at least 0, larger is better: what far words add to the near ones, in ordered text of known kinds",
    "kind": "at most 1, below 0 outside: whether the text's surface is that of a known kind of documents",
    "gzip_ratio": "compressed over plain size; neither end is best",
    "length": "characters, larger is better",
    "random": "chance, in [0, 1)",
    "loss_gain": "larger is better: by how much the whole window lowers a language model's loss",
    "prolong": "larger is better: ProLong's dependency of later segments on earlier ones",
    "ladm": "larger is better: LADM's contextual dependency",
    "deep_strength": "in [0, 1], larger is better: dependency strength of a deep layer",
    SELECTION_SCORE: "larger is better: the weighted sum of the scores that selected",
    "kept": "whether the window was selected",
    "skip_reason": "why the window has no scores; null where it has",
}

_CONVENTIONS = {
    "paper": "the paper's text",
    "reference_code": "the code that the paper's authors released, as it runs. Under its pinned libraries its "
    "attention is not causal where a window is whole, so that a token attends to later ones too; the paper's figures "
    "are causal ones. On 42 windows of the demo the two attentions rank alike at .89 and keep .86 of each other's "
    "upper half (`recipes/results/settings-demo.json`)",
    "reference_code_causal": "the code that the paper's authors released, with the causal attention that the paper's "
    "figures are of; as released it is not causal where a window is whole, and keeps .86 of the same windows on the "
    "demo (`recipes/results/settings-demo.json`)",
}


def render_card(report: Report) -> str:
    """Renders the card of a dataset: YAML metadata, and the text between the markers that publishing renews.

    Returns:
        The whole `README.md`, the same for the same report.

    Raises:
        ValueError: The default configuration is unknown, or the description holds the card's markers.
    """
    settings, not_run = report.settings, report.not_run
    ratio = settings["min_distance"] / settings["window_tokens"]
    positions = report.model.max_positions
    model = vars(report.model)
    stated = [name for name in model if name not in _MODEL_FACTS and not (not_run and model[name] is None)]
    template = _environment(not_run).from_string(
        Path(__file__).with_name("card_template.md").read_text(encoding="utf-8")
    )
    card = template.render(
        report=report,
        not_run=not_run,
        begin=BEGIN,
        end=END,
        front_matter=front_matter(report),
        place=report.repo_id or report.name,
        convention=get_convention(report.convention),
        columns_of=_columns_of(report.configs),
        left_out=[] if not_run else _left_out(report.run_categories),
        totals={} if not_run else _totals(report.run_categories),
        meanings=_MEANINGS,
        model={name: model[name] for name in (*_MODEL_FACTS, *stated)},
        scores=report.scores,
        others=[name for name in report.scores if name not in LONGATTN_SCORES and name != SELECTION_SCORE],
        weights=_weights(settings.get("select_by")),
        refused=[] if not_run else _refused(report.run_categories),
        conventions=_CONVENTIONS,
        ratio=f"{ratio:.4g}",
        uniform_strength=f"{uniform_dependency_strength(ratio):.4f}",
        beyond_positions=positions is not None and settings["window_tokens"] > positions,
    )
    if card.count(BEGIN) != 1 or card.count(END) != 1:
        raise ValueError(f"The description must not hold the card's markers {BEGIN} and {END}.")
    return card


def _weights(select_by: Any) -> str:
    """Says what a weighted sum is of."""
    if not isinstance(select_by, Mapping):
        return ""
    return ", the sum of " + ", ".join(f"{weight:g} times {markdown.code(name)}" for name, weight in select_by.items())


def _refused(categories: Mapping[str, CategoryFacts]) -> list[tuple[str, str, int, float]]:
    return [
        (name, reason, count, count / max(facts.windows, 1))
        for name, facts in categories.items()
        for reason, count in facts.refused.items()
    ]


def _environment(not_run: bool) -> Environment:
    absent = "not run" if not_run else "-"
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "code": markdown.code,
        "excerpt": markdown.excerpt,
        "fact": lambda value: "not run" if value is None and not_run else markdown.code(value),
        "fence": markdown.fence,
        "link": markdown.link,
        "prose": markdown.prose,
        "caption": lambda path: markdown.prose(Path(path).stem.replace("_", " ")),
        # a category that was not run has no facts to look up
        "number": lambda value: (
            absent if value is None or (not_run and isinstance(value, Undefined)) else _number(value)
        ),
        "share": lambda value: absent if value is None else f"{value:.0%}",
        "python": lambda value: json.dumps(value, ensure_ascii=False),
        "type_name": _type_name,
    }
    return environment


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _type_name(feature: Mapping[str, Any]) -> str:
    """Names the type of a column as `Features` writes it to YAML."""
    if "dtype" in feature:
        return feature["dtype"] if isinstance(feature["dtype"], str) else next(iter(feature["dtype"]))
    kind = next(name for name in feature if name != "name")
    inner = feature[kind]
    return f"{kind} of {inner}" if isinstance(inner, str) else kind


def _columns_of(configs: Mapping[str, ConfigurationFacts]) -> list[tuple[list[str], list[dict[str, Any]]]]:
    """Groups the configurations that have the same columns."""
    groups: list[tuple[list[str], list[dict[str, Any]]]] = []
    for name, facts in configs.items():
        columns = facts.features
        names = next((names for names, same in groups if same == columns), None)
        if names is None:
            groups.append(([name], columns))
        else:
            names.append(name)
    return groups


def _left_out(categories: Mapping[str, CategoryFacts]) -> list[tuple[str, str, str, int]]:
    """Lists (category, what, reason, count) of everything that never came to be selected from."""
    return [
        (name, kind, reason, count)
        for name, facts in categories.items()
        for kind, counts in (("documents", facts.skipped), ("windows", facts.windows_skipped))
        for reason, count in counts.items()
    ]


def _totals(categories: Mapping[str, CategoryFacts]) -> dict[str, int]:
    counts = ("documents", "windows", "tokens", "kept_windows", "kept_tokens", "kept_documents")
    return {count: sum(getattr(facts, count) for facts in categories.values()) for count in counts}
