"""Does the order of a text's passages matter? A permutation test of the text against itself.

The text is cut into `BLOCKS` blocks of equally many words. Blocks close to each other in a document speak of the same
things; in a shuffled one, a list or a log it makes no difference which stands where. The statistic is how alike blocks
are that stand within an eighth of the text (a quarter, for the largest passages), the nearer the heavier; alike is the
cosine of their words' counts, a word weighing the less the more blocks have it. It is compared with that of the same
blocks in other orders: by passages of one thirty-second, an eighth and a quarter of the text. The result, one number a
size, is by how many standard deviations of those the text's own order is above their mean. It needs no calibration to
mean something: a text whose passages of that size were shuffled has 0 in the mean, whatever its language and topic.
"""

from collections.abc import Sequence
from functools import cache
from itertools import permutations

import numpy as np

from longattn_hf.scoring.words import number_words

#: How many blocks a text is cut into.
BLOCKS = 64
#: The passages that are put into other orders, in blocks, and within how many blocks others are close.
PASSAGES = {2: 8, 8: 8, 16: 16}
_ORDERS = 99


def order_z_scores(words: Sequence[str]) -> list[float]:
    """Compares the order of a text's passages with other orders, a number for each size of `PASSAGES`.

    Args:
        words: At least `BLOCKS` words.

    Returns:
        In standard deviations; 0 where all orders are alike.
    """
    alike = _compare_blocks(number_words(words))
    return [_z_score(alike, passage, reach) for passage, reach in PASSAGES.items()]


def _compare_blocks(ids: np.ndarray) -> np.ndarray:
    """Cosines of blocks: float64 `[BLOCKS, BLOCKS]`."""
    length = len(ids) // BLOCKS
    counts = np.zeros((BLOCKS, int(ids.max()) + 1))
    np.add.at(counts, (np.arange(BLOCKS * length) // length, ids[: BLOCKS * length]), 1)
    weights = np.log(BLOCKS / np.maximum((counts > 0).sum(axis=0), 1))
    vectors = np.log1p(counts) * weights
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return vectors @ vectors.T


def _z_score(alike: np.ndarray, passage: int, reach: int) -> float:
    own, others = _closeness(alike, np.arange(BLOCKS)[None], reach)[0], _closeness(alike, _orders(passage), reach)
    spread = others.std()
    # equal sums differ in their last digits
    return float((own - others.mean()) / spread) if spread > 1e-9 * max(abs(own), 1e-300) else 0.0


def _closeness(alike: np.ndarray, orders_NB: np.ndarray, reach: int) -> np.ndarray:
    distances = range(1, reach + 1)
    return np.sum([alike[orders_NB[:, :-d], orders_NB[:, d:]].sum(axis=1) / d for d in distances], axis=0)


@cache
def _orders(passage: int) -> np.ndarray:
    """Orders of the blocks by whole passages: all others where there are few, else the same random ones always."""
    count = BLOCKS // passage
    if count <= 4:
        chosen = np.array(list(permutations(range(count)))[1:])
    else:
        rng = np.random.default_rng(passage)
        chosen = np.stack([rng.permutation(count) for _ in range(_ORDERS)])
    return (chosen[:, :, None] * passage + np.arange(passage)).reshape(len(chosen), BLOCKS)
