"""Every scorer by the name that command lines and configurations call it by."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from longattn_hf.columns import LONG_DISTANCE_SCORE
from longattn_hf.pages.text import did_you_mean

if TYPE_CHECKING:
    from longattn_hf.scoring.base import Scorer

#: The paper's scorer.
LONGATTN = "longattn"
#: Where each scorer is, and the column that it ranks by; those of words need neither torch nor a model.
SCORERS = {
    LONGATTN: ("longattn_hf.scoring.longattn.LongAttnScorer", LONG_DISTANCE_SCORE),
    "echo": ("longattn_hf.scoring.echo.EchoScorer", "echo"),
    "far_gain": ("longattn_hf.baselines.far_gain.FarGainScorer", "far_gain"),
    "word_gain": ("longattn_hf.baselines.word_gain.WordGainScorer", "word_gain"),
    "kind": ("longattn_hf.baselines.far_gain.KindScorer", "kind"),
    "gzip": ("longattn_hf.baselines.simple.GzipRatio", "gzip_ratio"),
    "length": ("longattn_hf.baselines.simple.Length", "length"),
    "random": ("longattn_hf.baselines.simple.RandomScore", "random"),
    "loss_gain": ("longattn_hf.baselines.loss_gain.LossGain", "loss_gain"),
    "prolong": ("longattn_hf.baselines.prolong.ProLong", "prolong"),
    "ladm": ("longattn_hf.baselines.ladm.Ladm", "ladm"),
    "deep": ("longattn_hf.baselines.deep_attention.DeepAttention", "deep_strength"),
}

#: What is known of the scores that select, in two sentences for a card; measured, see recipes/results/README.md.
FOUND = {
    LONGATTN: (
        "On documents that nothing was fitted on, the attention of a first layer was at chance in telling intact long "
        "documents from collages of short ones, and did not follow what a language model gains from far context. "
        "Choose it to reproduce the paper, not for its effect."
    ),
    "echo": (
        "It tells intact English documents and source code from collages and shuffled text, but half of the junk "
        "(logs, templates, chat) in a pool came into its best eighth, and it did not follow what a language model "
        "gains from far context. It fails in German, French and Chinese unless calibrated there."
    ),
    "word_gain": (
        "Of the scores that need no model it follows what a language model gains from far context most closely: on 94 "
        "windows of 4,096 tokens the rank correlation was .52 [.34, .64]. It prefers shuffled to ordered text; of "
        "a pool's junk .11 came into its best eighth, with the gate `kind` .02."
    ),
    "far_gain": (
        "On documents that nothing was fitted on, hardly any junk (.01) came into its best eighth, and it reached 12 "
        "of 30 bars for collages and shuffled text, where echo reached 16. It follows what a language model gains "
        "from far context, loosely: on 94 windows of 4,096 tokens the rank correlation was .31 [.09, .50]."
    ),
}


def check_name(name: str) -> None:
    """Checks a scorer's name without loading it.

    Raises:
        ValueError: There is no scorer of this name; names the nearest.
    """
    if name not in SCORERS:
        hint = did_you_mean(name, SCORERS, f"There are {', '.join(SCORERS)}.")
        raise ValueError(f"There is no scorer {name!r}. {hint}")


def ranking_column(name: str) -> str:
    """Returns the column that a scorer ranks by, larger being better; LongAttn's is made of two, by category.

    Raises:
        ValueError: As `check_name`.
    """
    check_name(name)
    return SCORERS[name][1]


def scorer_class(name: str) -> "type[Scorer]":
    """Returns a scorer's class.

    Raises:
        ValueError: As `check_name`.
    """
    check_name(name)
    module, _, kind = SCORERS[name][0].rpartition(".")
    return getattr(import_module(module), kind)


def make_scorer(name: str, settings: Mapping[str, Any]) -> "Scorer":
    """Makes a scorer of its name and of those settings that it has.

    Raises:
        ValueError: There is no such scorer, it has no such setting, or it needs one that is not there (a model).
    """
    kind = scorer_class(name)
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    for given in settings:
        if given not in known:
            hint = did_you_mean(given, known, f"It has {', '.join(known)}.")
            raise ValueError(f"The scorer {name!r} has no setting {given!r}. {hint}")
    required = [n for n, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    if lacking := [field for field in required if field not in settings]:
        raise ValueError(f"The scorer {name!r} needs {', '.join(lacking)}.")
    return kind(**settings)


def takes(name: str, setting: str) -> bool:
    """Says whether a scorer has a setting."""
    return setting in {field.name for field in fields(scorer_class(name))}  # type: ignore[arg-type]
