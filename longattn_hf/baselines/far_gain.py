"""`FarGainScorer`: what a window's far words add, given the near ones, in documents in order and of a known kind.

Three parts, each a module of its own, since none does alone:

- the gain (word_gain.py, where it is a scorer by itself): the mean over the window of log p(word | near and far) -
  log p(word | near). It follows what a language model gains from far context, and collages have little of it. But it
  prefers shuffled text, in which what was near is far, and some junk;
- the order (word_order.py): whether the window's passages stand in an order that matters, by a permutation test;
- the kind (text_kind.py): whether the window's surface is that of intact documents.

With z the three numbers of the order and `floors` what most intact windows exceed,

    far_gain = width * log(1 + exp((gain - floor) / width)) * product over z of 1 / (1 + exp(-slope * (z / floor - 1)))

and 0 where the kind is none that is known. Above the floors it ranks as the gain does; below one of them it goes to 0.

It does not see meaning: a far dependency without a word in common is worth nothing to it. The kinds are those of the
calibration: another domain or language wants its own, by `python -m recipes.benchmarks.calibrate_far_gain`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from longattn_hf.baselines.text_kind import SURFACE, Kind, describe_surface
from longattn_hf.baselines.word_gain import mean_far_gain, why_too_short
from longattn_hf.baselines.word_order import PASSAGES, order_z_scores
from longattn_hf.model.identity import identify_file
from longattn_hf.scoring.base import TextScorer
from longattn_hf.scoring.words import split_words


@dataclass(frozen=True, kw_only=True)
class FarGainCalibration:
    """What `FarGainScorer` knows beforehand; see `recipes/benchmarks/calibrate_far_gain.py`.

    Attributes:
        corpus: What it was calibrated on, in words.
        window_tokens: The length of the windows that it was calibrated on.
        gain_floor: The gain in nats a word that collages hardly reach.
        gain_width: The spread of their gains.
        order_floors: The z-scores that most intact windows exceed, one for each size of passages.
        order_slope: How steeply the order counts at its floors.
        kinds: The kinds of documents; of any kind if there are none.
    """

    corpus: str
    window_tokens: int
    gain_floor: float
    gain_width: float
    order_floors: Sequence[float]
    order_slope: float
    kinds: Sequence[Kind]

    def weigh_gain(self, gain: float) -> float:
        """The gain above the floor, never below 0, in nats a word."""
        return float(self.gain_width * np.logaddexp(0, (gain - self.gain_floor) / self.gain_width))

    def weigh_order(self, z_scores: Sequence[float]) -> float:
        """How far the order is that of a document, in [0, 1]."""
        ratios = np.asarray(z_scores) / np.asarray(self.order_floors)
        return float(np.exp(-np.logaddexp(0, -self.order_slope * (ratios - 1)).sum()))

    def oddness(self, surface: np.ndarray) -> float:
        """The distance from the nearest kind; beyond 1 it is none of them."""
        return min((kind.distance(surface) for kind in self.kinds), default=0.0)


def load_far_gain_calibration(path: str | None = None) -> FarGainCalibration:
    """Reads a calibration: the package's, or a file that `recipes/benchmarks/calibrate_far_gain.py` wrote.

    Raises:
        ValueError: The file is not one, or is one of another version.
    """
    file = Path(path) if path else Path(__file__).with_name("far_gain_calibration.json")
    try:
        return _read_calibration(file, path, identify_file(file))
    except OSError as error:
        raise ValueError(f"Cannot read a calibration from {path or 'the package'}: {error}") from error


@lru_cache(maxsize=4)
def _read_calibration(file: Path, path: str | None, identity: str) -> FarGainCalibration:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kinds = tuple(Kind(**kind) for kind in values.pop("kinds"))
        calibration = FarGainCalibration(kinds=kinds, **values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"Cannot read a calibration from {path or 'the package'}: {error}") from error
    sizes = {len(kind.mean) for kind in kinds}
    if len(calibration.order_floors) != len(PASSAGES) or sizes - {len(SURFACE)}:
        raise ValueError(f"The calibration in {path or 'the package'} is of another version; calibrate again.")
    return calibration


@dataclass(frozen=True, kw_only=True)
class FarGainScorer(TextScorer):
    """Scores windows by what their far words add, given the near ones; see the module for how and why.

    Adds `far_gain`, at least 0, and what it is made of: `far_gain_raw` (nats a word), `far_gain_order` (in [0, 1]) and
    `far_gain_oddness` (beyond 1 the window is of no known kind, and scores 0). Reads the text column alone, needs no
    model, and takes about 0.04 CPU seconds for 4,096 tokens. Windows of fewer than 512 words are refused.

    Attributes:
        calibration: A file that `recipes/benchmarks/calibrate_far_gain.py` wrote; the package's own, of English and
            source code, if None.
    """

    column: ClassVar[str] = "far_gain"
    parts: ClassVar[Mapping[str, pa.DataType]] = dict.fromkeys(
        ("far_gain_raw", "far_gain_order", "far_gain_oddness"), pa.float64()
    )
    citation: ClassVar[str] = "This package; the counts are after MacKay and Peto, Nat. Lang. Eng. 1(3), 1995."

    calibration: str | None = None

    def _other_bytes(self) -> str | None:
        return identify_file(Path(self.calibration)) if self.calibration else None

    def _why_refused(self, value: str, rank: int | None) -> str | None:
        return why_too_short(value)

    def _score(self, text: str, rank: int | None) -> tuple[float, float, float, float]:
        calibration, words = load_far_gain_calibration(self.calibration), split_words(text)
        gain = mean_far_gain(words)
        order = calibration.weigh_order(order_z_scores(words))
        oddness = calibration.oddness(describe_surface(text))
        score = calibration.weigh_gain(gain) * order if oddness <= 1 else 0.0
        return score, gain, order, oddness


@dataclass(frozen=True, kw_only=True)
class KindScorer(TextScorer):
    """Whether a text's surface is that of a known kind: 1 at a kind's centre, 0 at its edge, below it outside.

    For `gate: kind`, beside any score. Logs, tables, templates, lists and chat are below 0; see `text_kind.py`.

    Attributes:
        calibration: As that of `FarGainScorer`.
    """

    column: ClassVar[str] = "kind"
    citation: ClassVar[str] = "This package; the distance is Mahalanobis'."

    calibration: str | None = None

    def _other_bytes(self) -> str | None:
        return identify_file(Path(self.calibration)) if self.calibration else None

    def _score(self, text: str, rank: int | None) -> float:
        return 1 - load_far_gain_calibration(self.calibration).oddness(describe_surface(text))
