"""The dataset card, rendered from a run's report and from nothing else."""

from collections import Counter
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from types import CodeType
from typing import Any

from jinja2 import Template

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
from longattn_hf.report.card_words import environment, number, raised
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import LONGATTN_SCORES, CategoryAgreement, CategoryFacts, ConfigurationFacts, Example
from longattn_hf.selection.summary import pick_largest

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
    "doc_hash": "a hash of the document's text",
    "window_index": "place among the windows of the document, from 0, in the order of the cutting",
    "num_windows": "windows that the document gave",
    "start_char": "first character of the window in its document, from 0",
    "end_char": "the character behind the window's last one",
    "start_token": "first token of the window in its document, from 0",
    "num_tokens": "tokens in the window",
    "overlap_tokens": "tokens shared with windows of the same document cut earlier",
    "text": "the window",
    "input_ids": "its token ids, without special tokens",
    "category": "the kind of document: windows of each are ranked by themselves",
    "source": "where the document comes from",
    "license": "the licence of the source",
    DEPENDENCY_STRENGTH: "in [0, 1], larger is better: the share of the attention that falls at least k tokens back",
    DISTRIBUTION_UNIFORMITY: "at most 0, larger is better: minus the variance of the far attention",
    MAP_VARIANCE: "at least 0, smaller is better: the variance over the whole map, near entries set to zero",
    LONG_DISTANCE_SCORE: "in units of the category's standardisation, larger is better: both scores combined",
    ROW_FRACTION: "the share of the window's tokens whose attention its scores were read from",
    "echo": "at least 0, larger is better: how far the window's words are foretold by its earlier words, near and far",
    "far_gain": "at least 0, larger is better: what far words add to the near ones, in ordered text of known kinds",
    "word_gain": "nats a word, larger is better: what far words add to the near ones, in whatever order the text is",
    "compression_gain": "bits a byte, larger is better: what far text saves a compressor that has the near text",
    "kind": "at most 1, below 0 outside: whether the text's surface is that of a known kind of documents",
    "gzip_ratio": "compressed over plain size; neither end is best",
    "length": "characters, larger is better",
    "random": "chance, in [0, 1)",
    "loss_gain": "larger is better: by how much the whole window lowers a language model's loss",
    "prolong": "larger is better: ProLong's dependency of later segments on earlier ones",
    "ladm": "larger is better: LADM's contextual dependency",
    "deep_strength": "in [0, 1], larger is better: dependency strength of a deep layer",
    "deep_far": "in [0, 1], larger is better: what a middle layer's attention gives to far tokens, the first left out",
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


def render_card(report: Report, *, for_page: bool = False) -> str:
    """Renders the card of a dataset: YAML metadata, and the text between the markers that publishing renews.

    Args:
        report: The facts.
        for_page: Leave out what the report page has in a better form: the contents, and the table of sources.

    Returns:
        The whole `README.md`, the same for the same report.

    Raises:
        ValueError: The default configuration is unknown, or the description holds the card's markers.
    """
    settings, not_run = report.settings, report.not_run
    ratio = settings["min_distance"] / settings["window_tokens"]
    positions = report.model.max_positions
    model = vars(report.model)
    # reports of earlier releases have no hash of the settings
    open_facts = set(model) if not_run else {"config_sha256"}
    stated = [
        name for name in model if name not in _MODEL_FACTS and (name not in open_facts or model[name] is not None)
    ]
    examples, more_examples = _examples(report)
    long_licences = [name for name in dict.fromkeys(row.license or "" for row in report.sources) if len(name) > 32]
    words = environment(not_run)
    words.filters |= {"licence": partial(_short_licence, long=long_licences), "meaning": partial(_meaning, report)}
    card = Template.from_code(words, _template(), {}).render(
        report=report,
        not_run=not_run,
        for_page=for_page,
        begin=BEGIN,
        end=END,
        front_matter=front_matter(report),
        # until it is published: where a build puts it by itself, since equal builds elsewhere have equal cards
        place=report.repo_id or f"out/{report.name}",
        largest=largest_categories(report),
        own_cut=_own_cut(report),
        convention=get_convention(report.convention),
        columns=_columns(report.configs),
        left_out=_left_out(report.run_categories),
        totals={} if not_run else _totals(report.run_categories),
        meanings=_MEANINGS,
        model={name: model[name] for name in (*_MODEL_FACTS, *stated)},
        scores=report.scores,
        other_settings=[name for name in settings if name not in (report.not_default or ())],
        others=[name for name in report.scores if name not in LONGATTN_SCORES and name != SELECTION_SCORE],
        beside=[name for name in report.scores if name != report.ranked_by],
        weights=_weights(settings.get("select_by")),
        refused=_refused(report.run_categories),
        conventions=_CONVENTIONS,
        agreement=_agreement(report),
        other_rankings=_other_rankings(report),
        examples=examples,
        more_examples=more_examples,
        licences=_licences(report, long_licences),
        long_licences=long_licences,
        sources=sorted(report.sources, key=lambda row: (-(row.windows or 0), -(row.kept_windows or 0), row.source)),
        ratio=f"{ratio:.4g}",
        uniform_strength=f"{uniform_dependency_strength(ratio):.4f}",
        beyond_positions=positions is not None and settings["window_tokens"] > positions,
    )
    if card.count(BEGIN) != 1 or card.count(END) != 1:
        raise ValueError(f"The description must not hold the card's markers {BEGIN} and {END}.")
    return card


@cache
def _template() -> CodeType:
    """The compiled template; it is the environment that it renders in whose filters it calls."""
    words = environment(False)
    words.filters |= dict.fromkeys(("licence", "meaning"), str)
    return words.compile(Path(__file__).with_name("card_template.md").read_text(encoding="utf-8"))


def largest_categories(report: Report) -> list[str]:
    """Returns the categories with the most windows, in the report's order: those that a card shows more of."""
    run = report.run_categories
    return pick_largest({name: run[name].windows if name in run else 0 for name in report.categories})


def _own_cut(report: Report) -> str:
    """A stricter cut of the default configuration, half-way to its best score, for the example in the card's code."""
    facts = report.run_categories.get(report.default_config)
    best = facts.scores[report.ranked_by].max if facts else None
    if facts is None or facts.cut is None or best is None:
        return "1"
    middle = (facts.cut + best) / 2
    texts = (f"{middle:.{digits}g}" for digits in range(2, 17))
    return next((f"{float(text):.15g}" for text in texts if facts.cut <= float(text) < best), repr(middle))


def _agreement(report: Report) -> str:
    """Says how much of what is kept the other convention would have kept too."""
    found = report.agreement.categories.values() if report.agreement else ()
    shares = [facts.kept_overlap for facts in found if facts.kept_overlap is not None]
    if not shares:
        return "nothing to compare"
    ends = dict.fromkeys((f"{min(shares):.0%}", f"{max(shares):.0%}"))
    return f"{' to '.join(ends)} of the same windows in each category"


def _other_rankings(report: Report) -> list[tuple[str, Mapping[str, CategoryAgreement]]]:
    """Lists the other convention, where the ranking is the paper's, and the other scores, with their agreement."""
    convention = [(report.agreement.other_convention, report.agreement.categories)] if report.agreement else []
    return [*convention, *(report.others or {}).items()]


def _licences(report: Report, long: list[str]) -> str:
    """Says which licences the kept windows have, most windows first."""
    kept: Counter[str | None] = Counter()
    for row in report.sources:
        kept[row.license] += row.kept_windows or 0
    every = f" of {number(kept.total())} kept windows"
    named = [
        _short_licence(name, long) + (f" ({number(count)}{every if not at else ''})" if kept.total() else "")
        for at, (name, count) in enumerate(kept.most_common(3))
    ]
    rest = len(kept) - len(named)
    return f": {', '.join(named)}{f' and {rest} more' if rest else ''}" if named else ""


def _short_licence(name: str | None, long: list[str]) -> str:
    """A licence for the cell of a table: the beginning of a long one, with its number in the list of these."""
    if name is None:
        return "not stated"
    return (
        f"{markdown.prose(markdown.plain(name).partition(' ')[0][:20])}…{raised(long.index(name) + 1)}"
        if name in long
        else markdown.prose(name)
    )


def _meaning(report: Report, column: str) -> str:
    score = next((name for name in report.scores if column.startswith(f"{name}_")), None)
    part = f"a part of {markdown.code(score)}, or a number beside it" if score else None
    return _MEANINGS.get(column) or part or "carried over from the source documents"


def _examples(report: Report) -> tuple[list[tuple[str, str, Example]], list[tuple[str, str, Example]]]:
    """The windows to show, and those to fold away, each as (category, what it is, example)."""
    ends, largest = report.examples or {}, largest_categories(report)
    first = report.default_config if report.default_config in ends else next(iter(ends), None)
    every = [
        (name, side.capitalize(), example)
        for name, both in ends.items()
        if name in largest or name == first
        for side in ("highest", "lowest")
        for example in getattr(both, side)
    ]
    shown = []
    if first is not None:
        shown = [(first, "Highest", one) for one in ends[first].highest[:1]]
        shown += [(first, "Lowest", one) for one in ends[first].lowest[-1:]]
    return shown, [row for row in every if row not in shown]


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


def _columns(configs: Mapping[str, ConfigurationFacts]) -> list[tuple[dict[str, Any], str]]:
    """Lists each column once, with the configurations that have it."""
    found: list[tuple[dict[str, Any], list[str]]] = []
    for name, facts in configs.items():
        for column in facts.features:
            names = next((names for same, names in found if same == column), None)
            if names is None:
                found.append((column, [name]))
            else:
                names.append(name)
    return [(column, _which(names, list(configs))) for column, names in found]


def _which(names: list[str], every: list[str]) -> str:
    without = [name for name in every if name not in names]
    if len(without) < len(names):
        return "all" + (f" but {', '.join(map(markdown.code, without))}" if without else "")
    return ", ".join(map(markdown.code, names))


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
