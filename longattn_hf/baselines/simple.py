"""Scores that need no model: chance, length and compressibility."""

import gzip
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

from longattn_hf.scoring.base import TextScorer


@dataclass(frozen=True, kw_only=True)
class RandomScore(TextScorer):
    """A number that depends on nothing but the text's hash and a seed, uniform in [0, 1).

    Attributes:
        seed: Another seed, another order.
    """

    column: ClassVar[str] = "random"
    citation: ClassVar[str] = "Random selection within a category, the baseline of arXiv:2502.16860."

    seed: int = 0

    def _score(self, text: str, rank: int | None) -> float:
        digest = sha256(f"{self.seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
        # a double holds 53 bits; of 64 the quotient could round to 1
        return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@dataclass(frozen=True, kw_only=True)
class Length(TextScorer):
    """The text's length in characters; of windows with equal tokens, the mean length of a token."""

    column: ClassVar[str] = "length"
    citation: ClassVar[str] = "Selection of the longest documents, the common practice that arXiv:2402.10171 examines."

    def _score(self, text: str, rank: int | None) -> float:
        return float(len(text))


@dataclass(frozen=True, kw_only=True)
class GzipRatio(TextScorer):
    """Compressed over plain size of the text's UTF-8 bytes; small for repetitive text, large for noise.

    Olmo 3 drops the documents of the lowest and of the highest fifth, so that the middle is best and neither end.
    """

    column: ClassVar[str] = "gzip_ratio"
    citation: ClassVar[str] = "Team Olmo, Olmo 3, arXiv:2512.13961: long documents filtered by gzip compressibility."

    def _score(self, text: str, rank: int | None) -> float:
        plain = text.encode("utf-8", "surrogatepass")
        # the time of compression is part of the header
        return len(gzip.compress(plain, mtime=0)) / len(plain)
