"""Is a text of the kind that was calibrated on? The distance of its surface from that of intact documents.

The surface is `SURFACE`: figures of letters, words and lines, with their shapes, that know nothing of what they say. A
kind of documents (papers, books, code) is the mean of its windows' figures and their covariance; the distance to it is
Mahalanobis', in units of that which nearly all intact windows of the kind keep within. No junk is seen by it.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longattn_hf.scoring.words import COPY_WORDS, hash_runs, number_words, split_words

#: The figures, in their order; logarithms or log-odds of shares.
SURFACE = (
    "compressed size", "compressed size of the shape", "characters a word", "digits", "letters", "capitals", "blanks",
    "different words", "words that stand once", "lines", "different shapes of lines", "different starts of lines",
    "runs of six words that stood before", "word length", "its spread", "spread of line length",
)  # fmt: skip
_PIECE = 8000
_START = 6
_SHRINK, _LEAST_VARIANCE = 0.05, 0.0025


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of documents.

    Attributes:
        name: Its name.
        mean: The mean of its windows' figures, `[SURFACE]`.
        precision: The inverse of their covariance, `[SURFACE, SURFACE]`.
        cut: The distance that nearly all of its windows keep within.
    """

    name: str
    mean: Sequence[float]
    precision: Sequence[Sequence[float]]
    cut: float

    def distance(self, surface: np.ndarray) -> float:
        """The distance of a text's figures from the kind's, 1 being the cut."""
        off = surface - np.asarray(self.mean)
        return float(np.sqrt(max(off @ np.asarray(self.precision) @ off, 0.0)) / self.cut)


def fit_kind(name: str, surfaces: np.ndarray, cut: float = 1.0) -> Kind:
    """Fits a kind to the figures of its windows, float64 `[N, SURFACE]`."""
    covariance = np.cov(surfaces, rowvar=False)
    diagonal = np.diag(np.diag(covariance))
    # figures that hardly vary in a small sample would rule all others out
    covariance = (1 - _SHRINK) * covariance + _SHRINK * diagonal + _LEAST_VARIANCE * np.eye(len(covariance))
    return Kind(
        name=name,
        mean=surfaces.mean(axis=0).tolist(),
        precision=np.linalg.inv(covariance).tolist(),
        cut=cut,
    )


def describe_surface(text: str) -> np.ndarray:
    """Computes the figures of a text, float64 `[SURFACE]`: their means over pieces of about 8,000 characters.

    By pieces, so that windows of any length can be compared.
    """
    pieces = max(round(len(text) / _PIECE), 1)
    length = -(-len(text) // pieces)
    return np.mean([_describe_piece(text[i : i + length]) for i in range(0, len(text), length)], axis=0)


def _describe_piece(text: str) -> np.ndarray:
    words = split_words(text) or [""]
    counts = np.bincount(number_words(words))
    lengths = np.array([len(word) for word in words if word[:1].isalpha()] or [0])
    lines = [line for line in text.split("\n") if line.strip()] or [""]
    line_lengths = np.array([len(line) for line in lines])
    shapes = [_shape(line) for line in lines]
    size, letters = len(text), sum(map(str.isalpha, text))
    return np.array(
        [
            np.log(_compressed(text) / len(text.encode("utf-8", "surrogatepass"))),
            np.log(_compressed(_shape(text)) / size),
            np.log(size / len(words)),
            np.log(sum(map(str.isdigit, text)) / size + 0.002),
            _log_odds(letters, size),
            np.log(sum(map(str.isupper, text)) / max(letters, 1) + 0.005),
            np.log(sum(map(str.isspace, text)) / size + 0.01),
            _log_odds(len(counts), len(words)),
            _log_odds(int((counts == 1).sum()), len(counts)),
            np.log(len(lines) / size + 1e-4),
            _log_odds(len(set(shapes)), len(lines)),
            _log_odds(len({shape[:_START] for shape in shapes}), len(lines)),
            np.log(_copied_share(number_words(words)) + 0.005),
            np.log(lengths.mean() + 0.1),
            np.log(lengths.std() + 0.1),
            np.log(line_lengths.std() / max(line_lengths.mean(), 1) + 0.02),
        ]
    )


def _shape(text: str) -> str:
    """A text with one `0` for every number and one `a` for every run of letters."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", text))


def _compressed(text: str) -> int:
    return len(zlib.compress(text.encode("utf-8", "surrogatepass"), 6))


def _log_odds(count: int, of: int) -> float:
    return float(np.log((count + 0.5) / (of - count + 0.5)))


def _copied_share(ids: np.ndarray) -> float:
    if len(ids) < COPY_WORDS:
        return 0.0
    hashes = hash_runs(ids)
    return 1 - len(np.unique(hashes)) / len(hashes)
