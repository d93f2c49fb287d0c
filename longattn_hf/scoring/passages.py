"""The passage of a window whose tokens attend back furthest, for examples that show what was scored."""

from collections.abc import Sequence

import numpy as np
import torch

from longattn_hf.attention.api import far_rows
from longattn_hf.scoring.longattn import LongAttnScorer

# tokens of a passage, and rows of the map that are read to find it
_TOKENS = 64
_ROWS = 512


def find_passages(scorer: LongAttnScorer, texts: Sequence[str]) -> list[tuple[str, float | None]]:
    """Returns the passage of each text that attends back furthest, and the mean share of its attention that is far.

    It is found by a sample of the rows of the map, and its share is that of all of its rows, the mean over the heads.

    Args:
        scorer: As it scored.
        texts: Windows.

    Returns:
        By text; a text that is not usable, or that has no passage with `min_distance` tokens before it, as it is, and
        None.
    """
    return [_find_passage(scorer, text) for text in texts]


def _find_passage(scorer: LongAttnScorer, text: str) -> tuple[str, float | None]:
    try:
        ids = scorer.token_ids({scorer.text_column: text})
    except ValueError:
        return text, None
    ids_BT, reading = scorer.read_as_declared(torch.from_numpy(ids)[None])
    length = int(reading["lengths"][0]) if reading.get("lengths") is not None else len(ids)
    first = scorer.min_distance if scorer.min_distance is not None else len(ids) // 4
    if length - first < _TOKENS:
        return text, None
    layer = scorer.load_layer()
    with torch.inference_mode():
        q, k, scale = layer.query_key(ids_BT)

        def far_shares(positions: np.ndarray) -> np.ndarray:
            positions_R = torch.from_numpy(positions).to(q.device)
            mass_BHR, _ = far_rows(
                q[:, :, positions_R],
                k,
                min_distance=first,
                scale=scale,
                positions=positions_R,
                impl=scorer.impl,
                **reading,
            )
            return mass_BHR[0].double().mean(0).cpu().numpy()

        step = max(1, (length - first) // _ROWS)
        sampled = far_shares(np.arange(first, length, step))
        # a passage holds this many of the rows that were read
        run = max(1, _TOKENS // step)
        start = first + step * int(np.argmax(np.convolve(sampled, np.ones(run), "valid")))
        rows = np.arange(start, min(start + _TOKENS, length))
        share = float(far_shares(rows).mean())
    passage = scorer.load_tokenizer().decode(ids_BT[0, rows].tolist(), skip_special_tokens=True)
    # the passage may begin or end inside a character
    return passage.strip("\ufffd"), round(share, 4)
