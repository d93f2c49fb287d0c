"""What the far context saves a compressor, given the near one: marginal compression, without a model or calibration.

The text's UTF-8 bytes are cut into eighths (`PARTS`). With C(x) the size of x under LZMA, which finds what it can copy
at any distance, the far context A of an eighth S, whose near context N is the eighth before it, saves

    (C(N S) - C(N)) - (C(A N S) - C(A N))

This is a language model's loss gain for a compressor in the place of the model; a compressed size as a stand-in for
what a text tells is Cilibrasi and Vitanyi's (Clustering by compression, IEEE Trans. Inf. Theory 51(4), 2005).
"""

import lzma
from dataclasses import dataclass
from typing import ClassVar

from longattn_hf.scoring.base import TextScorer, too_short

#: A text is cut into so many parts; those from the third on have a far context.
PARTS = 8
#: In fewer bytes the parts are so short that the sizes are those of the compressor's own start.
LEAST_BYTES = 2048
_LEAST_DICTIONARY = 4096


def compressed_size(plain: bytes) -> int:
    """The size in bytes under LZMA2 without headers, with a dictionary that holds all of it."""
    settings = {
        "id": lzma.FILTER_LZMA2,
        "dict_size": max(_LEAST_DICTIONARY, 1 << max(len(plain) - 1, 0).bit_length()),
        # all named, so that no preset of another version changes them; pb and lp 0 are text's
        "lc": 3,
        "lp": 0,
        "pb": 0,
        "mode": lzma.MODE_NORMAL,
        "mf": lzma.MF_BT4,
        "nice_len": 273,
        "depth": 0,
    }
    return len(lzma.compress(plain, format=lzma.FORMAT_RAW, filters=[settings]))


def compression_gain(plain: bytes) -> float:
    """Computes what far parts save, in bits a byte, over the parts that have a far context.

    Args:
        plain: The text, of at least `PARTS` bytes.
    """
    cuts = [len(plain) * part // PARTS for part in range(PARTS + 1)]
    saved, before = 0, compressed_size(plain[: cuts[2]])
    for near, start, end in zip(cuts[1:], cuts[2:], cuts[3:], strict=False):
        whole = compressed_size(plain[:end])
        saved += compressed_size(plain[near:end]) - compressed_size(plain[near:start]) - (whole - before)
        before = whole
    return 8 * saved / (len(plain) - cuts[2])


@dataclass(frozen=True, kw_only=True)
class CompressionGainScorer(TextScorer):
    """Scores windows by what their far context saves a compressor, given the near one, in bits a byte of UTF-8.

    Adds `compression_gain`, about 0 where the far context adds nothing. Like `word_gain` it follows what a language
    model gains from far context and prefers text that was shuffled, in which what was near is far: it is for documents
    that are in order, behind `gate: kind`. Words play no part, so it needs neither a script's rules nor calibration;
    it refuses windows of fewer than 2,048 bytes.
    """

    column: ClassVar[str] = "compression_gain"
    citation: ClassVar[str] = "This package; compressed sizes as Cilibrasi and Vitanyi, IEEE Trans. Inf. Theory, 2005."

    def _read(self, column: str, values: list[str]) -> list[bytes]:
        # a lone surrogate, as JSON can hold, has no other bytes
        return [text.encode("utf-8", "surrogatepass") for text in values]

    def _why_refused(self, value: bytes, rank: int | None) -> str | None:
        return too_short(len(value), "bytes", LEAST_BYTES)

    def _score(self, plain: bytes, rank: int | None) -> float:
        return compression_gain(plain)
