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
    "compression_gain": ("longattn_hf.baselines.compression_gain.CompressionGainScorer", "compression_gain"),
    "kind": ("longattn_hf.baselines.far_gain.KindScorer", "kind"),
    "gzip": ("longattn_hf.baselines.simple.GzipRatio", "gzip_ratio"),
    "length": ("longattn_hf.baselines.simple.Length", "length"),
    "random": ("longattn_hf.baselines.simple.RandomScore", "random"),
    "loss_gain": ("longattn_hf.baselines.loss_gain.LossGain", "loss_gain"),
    "prolong": ("longattn_hf.baselines.prolong.ProLong", "prolong"),
    "ladm": ("longattn_hf.baselines.ladm.Ladm", "ladm"),
    "deep": ("longattn_hf.baselines.deep_attention.DeepAttention", "deep_strength"),
    "deep_far": ("longattn_hf.baselines.deep_attention.DeepFarAttention", "deep_far"),
}


def _found_with_few(collages: str, shuffles: str) -> str:
    """Says what is known of a score that runs a whole model, which makes many windows dear."""
    return (
        "A lead and no ranking, of 5 intact windows of 2,048 tokens a category (arXiv, books, code): its areas "
        f"against collages of 512 tokens were {collages}, and it won {shuffles} of the pairs with shuffled text, "
        "chance being .50. What junk it keeps, and how it follows what a language model gains from far context, was "
        "not measured by this project's yardstick."
    )


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
        "It follows what a language model gains from far context: on 175 windows of 4,096 tokens the rank correlation "
        "was .52 [.39, .62]. It prefers shuffled to ordered text; of a pool's junk .13 came into its best eighth, "
        "with the gate `kind` .04."
    ),
    "compression_gain": (
        "It follows what a language model gains from far context: on 175 windows of 4,096 tokens the rank correlation "
        "was .55 [.44, .65]. It prefers shuffled to ordered text; of a pool's junk .16 came into its best eighth, "
        "with the gate `kind` .04."
    ),
    "far_gain": (
        "On documents that nothing was fitted on, next to no junk (.00) came into its best eighth, and it reached 12 "
        "of 30 bars for collages and shuffled text, where echo reached 16. It follows what a language model gains "
        "from far context, loosely: on 175 windows of 4,096 tokens the rank correlation was .39 [.24, .52]."
    ),
    "kind": (
        "As a gate of the gain of far context it let .04 of a pool's junk into the best eighth, where .13 came "
        "without it, and refused none of the intact windows. As a score that ranks it was not measured by this "
        "project's yardstick."
    ),
    "gzip": (
        "It takes collages for better than intact documents: its areas against collages of 512 tokens were .01 .06 "
        ".14 (arXiv, books, code; chance is .50), and .35 of a pool's junk came into its best eighth. It did not "
        "follow what a language model gains from far context: on 175 windows of 4,096 tokens the rank correlation was "
        "-.13 [-.28, .02]."
    ),
    "length": (
        "It is at chance in telling intact documents from collages of 512 tokens, with areas of .53 .57 .51 (arXiv, "
        "books, code; chance is .50), and did not follow what a language model gains from far context: on 175 windows "
        "of 4,096 tokens the rank correlation was -.09 [-.25, .06]. What junk it keeps was not measured by this "
        "project's yardstick."
    ),
    "random": (
        "Chance, to compare other scores with: .13 of a pool's junk came into its best eighth. On 175 windows of "
        "4,096 tokens its rank correlation with what a language model gains from far context was .06 [-.09, .22]."
    ),
    "loss_gain": _found_with_few("1.00 1.00 .88", ".60 .60 .40"),
    "prolong": _found_with_few(".96 .80 .64", ".60 .40 .20"),
    "ladm": _found_with_few(".44 .72 .36", ".20 .60 .40"),
    "deep": _found_with_few(".76 .64 .92", ".40 .40 .80"),
    "deep_far": (
        "Read half-way down SmolLM2-135M, it follows what that model gains from far context: on 102 windows of 4,096 "
        "tokens the rank correlation was .54 [.35, .68]. What junk it keeps, and whether it tells intact documents "
        "from collages and shuffled text, was not measured by this project's yardstick."
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
