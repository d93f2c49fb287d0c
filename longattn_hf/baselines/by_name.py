"""Every scorer by the name that command lines and configurations call it by."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from longattn_hf.columns import LONG_DISTANCE_SCORE
from longattn_hf.scoring.base import Scorer, TextScorer

#: Where each scorer is; those of words need neither torch nor a model.
SCORERS = {
    "longattn": "longattn_hf.scoring.longattn.LongAttnScorer",
    "echo": "longattn_hf.scoring.echo.EchoScorer",
    "far_gain": "longattn_hf.baselines.far_gain.FarGainScorer",
    "gzip": "longattn_hf.baselines.simple.GzipRatio",
    "length": "longattn_hf.baselines.simple.Length",
    "random": "longattn_hf.baselines.simple.RandomScore",
    "loss_gain": "longattn_hf.baselines.loss_gain.LossGain",
    "prolong": "longattn_hf.baselines.prolong.ProLong",
    "ladm": "longattn_hf.baselines.ladm.Ladm",
    "deep": "longattn_hf.baselines.deep_attention.DeepAttention",
}


def scorer_class(name: str) -> type[Scorer]:
    """Returns a scorer's class.

    Raises:
        ValueError: There is no scorer of this name; names the nearest.
    """
    if name not in SCORERS:
        near = get_close_matches(name, SCORERS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(SCORERS)}."
        raise ValueError(f"There is no scorer {name!r}. {hint}")
    module, _, kind = SCORERS[name].rpartition(".")
    return getattr(import_module(module), kind)


def make_scorer(name: str, settings: Mapping[str, Any]) -> Scorer:
    """Makes a scorer of its name and of those settings that it has.

    Raises:
        ValueError: There is no such scorer, it has no such setting, or it needs one that is not there (a model).
    """
    kind = scorer_class(name)
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    for given in settings:
        if given not in known:
            near = get_close_matches(given, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(known)}."
            raise ValueError(f"The scorer {name!r} has no setting {given!r}. {hint}")
    required = [n for n, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    if lacking := [field for field in required if field not in settings]:
        raise ValueError(f"The scorer {name!r} needs {', '.join(lacking)}.")
    return kind(**settings)


def takes(name: str, setting: str) -> bool:
    """Says whether a scorer has a setting."""
    return setting in {field.name for field in fields(scorer_class(name))}  # type: ignore[arg-type]


def score_column(scorer: Scorer) -> str:
    """Returns the column that windows are ranked by: LongAttn's is made of two, on its category's scale."""
    return scorer.column if isinstance(scorer, TextScorer) else LONG_DISTANCE_SCORE
