"""Which scorers a build has, and which of them decide what it keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longattn_hf.baselines.by_name import LONGATTN, check_name, ranking_column


@dataclass(frozen=True, kw_only=True)
class ScorerChoice:
    """The scorers of a build, by name.

    Attributes:
        scorers: Each with its own settings.
        weights: Those that rank windows; one alone, or several whose sum does.
        is_sum: Whether what ranks is a weighted sum, even of one.
        gate: The least value that a window may have by others.
    """

    scorers: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, float]
    is_sum: bool
    gate: Mapping[str, float]

    @classmethod
    def of(
        cls,
        scorers: Sequence[str] | Mapping[str, Mapping[str, Any] | None],
        select_by: str | Mapping[str, float] | None,
        gate: str | Mapping[str, float],
    ) -> "ScorerChoice":
        """Reads a build's settings of these names.

        Raises:
            ValueError: There is no such scorer, none at all, or one ranks that does not score.
        """
        given = dict(scorers) if isinstance(scorers, Mapping) else dict.fromkeys(scorers)
        least = {gate: 0.0} if isinstance(gate, str) else dict(gate)
        for name in (*given, *least):
            check_name(name)
        if not given:
            raise ValueError("scorers names none; give at least one, such as longattn.")
        ranks = dict(select_by) if isinstance(select_by, Mapping) else {select_by or next(iter(given)): 1.0}
        if unscored := [name for name in ranks if name not in given]:
            names = ", ".join(map(repr, unscored))
            raise ValueError(f"select_by names {names}, and the scorers are {', '.join(given)}; add it there.")
        return cls(
            scorers={name: dict(own or {}) for name, own in (given | dict.fromkeys(least.keys() - given)).items()},
            weights=ranks,
            is_sum=isinstance(select_by, Mapping),
            gate=least,
        )

    @classmethod
    def of_settings(cls, known: Mapping[str, Any]) -> "ScorerChoice":
        """Reads those settings of a build that are known; LongAttn alone where none is. Raises as `of`."""
        return cls.of(known.get("scorers") or [LONGATTN], known.get("select_by"), known.get("gate") or {})

    @property
    def deciding(self) -> list[str]:
        """The scorers without which nothing is kept, those that rank first."""
        return list(dict.fromkeys((*self.weights, *self.gate)))

    @property
    def columns(self) -> dict[str, Any]:
        """The same as arguments of a `Selection`, by columns."""
        weights = {ranking_column(name): weight for name, weight in self.weights.items()}
        return {
            "score": weights if self.is_sum else next(iter(weights)),
            "gate": {ranking_column(name): least for name, least in self.gate.items()},
        }
