"""The dataset card, rendered from a run's report and from nothing else.

The report is plain JSON (`report.json`), without time stamps and local paths. Its facts:

- `name`, `pretty_name`, `version`, `description` (Markdown, may be empty), `command`, `language`, `tags`,
  `convention`;
- `settings` (at least `window_tokens`, `min_distance`, `alpha`; null means not set), `software` (name to version) and
  `model` (the first layer's identity, see `MODEL_FACTS`);
- `categories`: name to `documents`, `skipped` (reason to count), `windows`, `windows_skipped`, `tokens`,
  `kept_windows`, `kept_tokens`, `kept_documents`, `cut` and, for each score, its `min`, `mean`, `max` and `std`;
- `sources`: list of `source` (a data set's id, or `package==version`), `license` (SPDX expression, null where none is
  stated), `category`, `documents`, `windows`, `kept_windows`;
- `agreement`: `other_convention`, and `categories`: name to `spearman` and `kept_overlap`;
- `examples`: category to `highest` and `lowest`, lists of `id`, `source`, the three scores and an `excerpt`;
- `configs`: name to `data_files`, `num_rows`, `num_bytes`, `download_size`, `features`; and `default_config`;
- `figures`: paths relative to the card; optionally `page`, that of the report with interactive plots, `repo_id`, where
  the data set is published, `recipe`, what the explorer needs to write one, and `not_run`, true for
  a recipe's card without a run: then the facts in `_MEASURED` may be null or missing and stand as "not run".
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from longattn_hf.columns import DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, LONG_DISTANCE_SCORE, MAP_VARIANCE
from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.method import get_convention
from longattn_hf.null_model import uniform_dependency_strength
from longattn_hf.pages import text as markdown
from longattn_hf.report.card_metadata import front_matter

#: The facts of the report's `model`, in the card's order; `revision` is null for local files.
MODEL_FACTS = (
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
_SCORES = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE, LONG_DISTANCE_SCORE)
# what only a run can tell
_MEASURED = (
    frozenset(
        "documents skipped windows windows_skipped tokens kept_windows kept_tokens kept_documents cut agreement "
        "examples num_rows num_bytes download_size figures software".split()
    )
    | set(_SCORES)
    | set(MODEL_FACTS[1:])
)
# null says something here: nothing was kept, a category without windows, no revision, no licence stated
_MAY_BE_NULL = frozenset("cut min mean max std spearman kept_overlap revision max_positions license".split())
_FREE_FORM = ("settings.", "model.rope")
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
    "kept": "whether the window was selected",
    "skip_reason": "why the window has no scores; null where it has",
}


class _Facts(dict[str, Any]):
    """A mapping of the report that knows its place, so that what is missing, empty or null is named in the error."""

    def __init__(self, facts: Mapping[str, Any], *, not_run: bool, path: str = "") -> None:
        self.path, self.not_run = path, not_run
        super().__init__({name: self._checked(name, value) for name, value in facts.items()})

    def __missing__(self, name: str) -> None:
        if not (self.not_run and name in _MEASURED):
            raise ValueError(f"The report lacks {self.path}{name}, and the card states it; build the report again.")

    def _checked(self, name: str, value: Any) -> Any:
        path = f"{self.path}{name}"
        if isinstance(value, Mapping):
            return _Facts(value, not_run=self.not_run, path=f"{path}.")
        if isinstance(value, list | tuple):
            return [self._checked(f"{name}[{at}]", item) for at, item in enumerate(value)]
        null_says_something = (
            name in _MAY_BE_NULL or path.startswith(_FREE_FORM) or (self.not_run and name in _MEASURED)
        )
        if (value == "" and path != "description") or (value is None and not null_says_something):
            raise ValueError(f"The report's {path} is {value!r}, and the card states it; build the report again.")
        return value


def render_card(report: Mapping[str, Any]) -> str:
    """Renders the card of a data set: YAML metadata, and the text between the markers that publishing renews.

    Args:
        report: The facts, as this module describes them.

    Returns:
        The whole `README.md`, the same for the same report.

    Raises:
        ValueError: A fact is missing, empty or null (the message names it), the default configuration is unknown, or
            the description holds the card's markers.
    """
    not_run = bool(report.get("not_run", False))
    facts = _Facts(report, not_run=not_run)
    settings = facts["settings"]
    ratio = settings["min_distance"] / settings["window_tokens"]
    positions = facts["model"]["max_positions"]
    template = _environment(not_run).from_string(
        Path(__file__).with_name("card_template.md").read_text(encoding="utf-8")
    )
    card = template.render(
        report=facts,
        not_run=not_run,
        begin=BEGIN,
        end=END,
        front_matter=front_matter(facts),
        place=report.get("repo_id", facts["name"]),
        convention=get_convention(facts["convention"]),
        columns_of=_columns_of(facts["configs"]),
        left_out=[] if not_run else _left_out(facts["categories"]),
        totals={} if not_run else _totals(facts["categories"]),
        meanings=_MEANINGS,
        model_facts=MODEL_FACTS,
        scores=_SCORES,
        ratio=f"{ratio:.4g}",
        uniform_strength=f"{uniform_dependency_strength(ratio):.4f}",
        beyond_positions=positions is not None and settings["window_tokens"] > positions,
    )
    if card.count(BEGIN) != 1 or card.count(END) != 1:
        raise ValueError(f"The description must not hold the card's markers {BEGIN} and {END}.")
    return card


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
        "number": lambda value: absent if value is None else _number(value),
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


def _columns_of(configs: Mapping[str, Any]) -> list[tuple[list[str], list[Mapping[str, Any]]]]:
    """Groups the configurations that have the same columns."""
    groups: list[tuple[list[str], list[Mapping[str, Any]]]] = []
    for name, facts in configs.items():
        columns = facts["features"]
        names = next((names for names, same in groups if same == columns), None)
        if names is None:
            groups.append(([name], columns))
        else:
            names.append(name)
    return groups


def _left_out(categories: Mapping[str, Any]) -> list[tuple[str, str, str, int]]:
    """Lists (category, what, reason, count) of everything that never came to be selected from."""
    return [
        (name, kind, reason, count)
        for name, facts in categories.items()
        for kind, key in (("documents", "skipped"), ("windows", "windows_skipped"))
        for reason, count in facts[key].items()
    ]


def _totals(categories: Mapping[str, Any]) -> dict[str, int]:
    counts = ("documents", "windows", "tokens", "kept_windows", "kept_tokens", "kept_documents")
    return {count: sum(facts[count] for facts in categories.values()) for count in counts}
