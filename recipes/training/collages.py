"""Collages of intact windows: the same tokens, but none that depends on another far away."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from longattn_hf.columns import DOC_ID, ID, INPUT_IDS, TEXT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def deal_collages(windows: Dataset, tokenizer: "PreTrainedTokenizerFast", *, tokens: int) -> Dataset:
    """Cuts windows into passages and deals these out to as many collages, no two of a document to the same one.

    The benchmark's collages draw their passages; here every passage of the windows comes once, and in its own place
    of the window, so that a model which learns from collages sees neither other text nor more or less of it.

    Args:
        windows: Windows of one category, of equal length, with `id`, `doc_id` and `input_ids`.
        tokenizer: That of the windows.
        tokens: The passages' length.

    Returns:
        `id`, `text`, `num_tokens`, and `made_of`: the window that each passage is of.

    Raises:
        ValueError: The passages are as long as the windows, or too many of the windows are of one document.
    """
    # where a document's windows stand side by side, a collage takes its passages from windows far apart
    documents = list(windows[DOC_ID])
    windows = windows.select(sorted(range(len(windows)), key=lambda n: documents[n]))
    ids_NT = np.asarray(windows[INPUT_IDS])
    starts = range(0, ids_NT.shape[1], tokens)
    shift, most = len(windows) // len(starts), max(Counter(documents).values())
    if len(starts) < 2 or most > shift:
        raise ValueError(
            f"Of {len(windows)} windows of {ids_NT.shape[1]} tokens, up to {most} of one document, no collages of "
            f"passages of {tokens} tokens can be made in which every passage is of another document: choose other "
            "collage_tokens, or give more documents or a larger token_budget."
        )
    rows = []
    for i in range(len(windows)):
        chosen = [(i + place * shift) % len(windows) for place in range(len(starts))]
        ids = np.concatenate([ids_NT[n, start : start + tokens] for n, start in zip(chosen, starts, strict=True)])
        text = tokenizer.backend_tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        made_of = [windows[ID][n] for n in chosen]
        rows.append({ID: f"collage {i}", TEXT: text, "num_tokens": len(ids), "made_of": made_of})
    return Dataset.from_list(rows)
