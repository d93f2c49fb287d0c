"""What a language model gains from far context in a window: token by token, in several stretches, resumable.

In a stretch, a token's gain is its loss given the near context alone, minus its loss given all of the window before:
what the far context adds **given** the near one, in nats. A window's gain is the mean over its stretches. The pass
over the whole window also tells how much of each layer's attention goes to the far context, the first token left out.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from longattn_hf.baselines.deep_attention import FIRST_SHARE, far_share
from longattn_hf.files import write_json
from longattn_hf.model.attention_hooks import AttentionCall, observe_attention
from longattn_hf.model.language_model import token_losses
from recipes.benchmarks.planted_windows import Cutter, Document


@dataclass(frozen=True, kw_only=True)
class Stretches:
    """Where the gain is measured.

    Attributes:
        window_tokens: The windows' length.
        count: How many stretches, spread evenly up to the window's end.
        tokens: A stretch's length; an eighth of the window if None.
        near_tokens: How many tokens before a stretch are near to its first; likewise.
    """

    window_tokens: int
    count: int = 3
    tokens: int | None = None
    near_tokens: int | None = None

    @property
    def length(self) -> int:
        """A stretch's length in tokens."""
        return self.tokens or self.window_tokens // 8

    @property
    def near(self) -> int:
        """The length in tokens of the near context before a stretch."""
        return self.near_tokens or self.window_tokens // 8

    @property
    def starts(self) -> list[int]:
        """Where the stretches start.

        Raises:
            ValueError: They would overlap, or have no far context.
        """
        step = (self.window_tokens - self.near) // self.count
        if self.count < 1 or min(self.length, self.near) < 1 or step < self.length:
            raise ValueError(
                f"{self.count} stretches of {self.length} tokens after {self.near} near ones do not fit in a window "
                f"of {self.window_tokens}."
            )
        return [self.window_tokens - i * step - self.length for i in reversed(range(self.count))]


@dataclass(frozen=True)
class Measured:
    """What was measured of a window.

    Attributes:
        gains: Each token's gain in nats, float32 `[stretches, tokens]`.
        losses: Its loss given all that stands before, likewise.
        far_attention: Of each layer, `far_share` beyond the near tokens.
    """

    gains: np.ndarray
    losses: np.ndarray
    far_attention: list[float]


def measure_gain(
    network: PreTrainedModel, ids: np.ndarray, stretches: Stretches, starts: Sequence[int] | None = None
) -> Measured:
    """Measures each token's gain from the far context.

    Args:
        network: A causal language model.
        ids: A window's token ids, int `[T]`.
        stretches: Where.
        starts: Of the stretches to measure; all if None.
    """
    starts = stretches.starts if starts is None else starts
    near, length = stretches.near, stretches.length
    # what stands after the last stretch changes nothing before it
    window = torch.from_numpy(ids[: max(starts) + length].astype(np.int64))
    rows_NT = torch.stack([window[start - near : start + length] for start in starts])
    near_NT = torch.cat([token_losses(network, row, torch.arange(near, near + length)) for row in rows_NT.split(1)])
    places = torch.cat([torch.arange(start, start + length) for start in starts])
    with _watch_far_attention(near, stretches.window_tokens // FIRST_SHARE) as far_attention:
        whole_NT = token_losses(network, window[None], places).view(near_NT.shape)
    return Measured((near_NT - whole_NT).cpu().numpy(), whole_NT.cpu().numpy(), far_attention)


@contextmanager
def _watch_far_attention(near: int, first: int) -> Iterator[list[float]]:
    """Collects what `Measured.far_attention` says of a pass over one window, in rows from the first one on."""
    by_layer: list[float] = []

    def observe(call: AttentionCall) -> None:
        by_layer.append(far_share(call.q, call.k, call.scale, near=near, first=first))

    with observe_attention(observe):
        yield by_layer


def choose_windows(
    documents: Sequence[Document], cutter: Cutter, *, per_category: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yields one window a document, the categories in turn, so that an early stop leaves them balanced."""
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(document.category, []).append(document)
    orders = {c: np.random.default_rng([seed, i]).permutation(len(groups[c])) for i, c in enumerate(sorted(groups))}
    counts = dict.fromkeys(orders, 0)
    for place in range(max(map(len, groups.values()), default=0)):
        for number, (category, order) in enumerate(orders.items()):
            if place >= len(order) or counts[category] == per_category:
                continue
            document = groups[category][order[place]]
            ids = cutter.cut(document, cutter.window_tokens, np.random.default_rng([seed, number, place]))
            if ids is not None:
                name = f"{category}-{counts[category]:04d}"
                counts[category] += 1
                yield {"name": name, "category": category, "doc_id": document.id, "ids": ids}


def measure_windows(
    windows: Iterator[dict[str, Any]],
    network: PreTrainedModel,
    stretches: Stretches,
    settings: dict[str, Any],
    out: Path,
    *,
    minutes: float,
) -> None:
    """Measures what is not measured yet and writes a file a window, until the minutes are over.

    A window that is known at other stretches, as of a run with fewer of them, is measured at those that it lacks.

    Raises:
        ValueError: The folder holds other windows, or some that were measured with other settings.
    """
    deadline = time.monotonic() + 60 * minutes
    for window in windows:
        path, ids = out / f"{window['name']}.json", window["ids"].tolist()
        known = json.loads(path.read_text()) if path.exists() else {"settings": settings | {"starts": []}, "ids": ids}
        if known["settings"] | {"starts": []} != settings | {"starts": []}:
            raise ValueError(f"{path} was measured with other settings; give another --folder.")
        if known["ids"] != ids:
            raise ValueError(f"{path} is a window of other documents; give another --folder.")
        missing = [start for start in settings["starts"] if start not in known["settings"]["starts"]]
        if not missing:
            continue
        if time.monotonic() > deadline:
            return
        start = time.process_time()
        measured = measure_gain(network, window["ids"], stretches, missing)
        starts = [*known["settings"]["starts"], *missing]
        in_order = sorted(range(len(starts)), key=starts.__getitem__)
        seconds = known.get("cpu_seconds", 0) + time.process_time() - start
        found = window | {"settings": settings | {"starts": sorted(starts)}, "ids": ids}
        for name, part in (("gains", measured.gains), ("losses", measured.losses)):
            rows = [*known.get(name, []), *np.round(part.astype(float), 4).tolist()]
            found[name] = [rows[i] for i in in_order]
        found["far_attention"] = [round(share, 5) for share in measured.far_attention]
        write_json(path, found | {"cpu_seconds": round(seconds, 2)})


def at_stretches(window: dict[str, Any], starts: Sequence[int]) -> dict[str, Any] | None:
    """Reduces a measured window to the stretches that start there; None where it is not measured at all of them."""
    known = window["settings"]["starts"]
    if not set(starts) <= set(known):
        return None
    places = [known.index(start) for start in starts]
    parts = {name: [window[name][place] for place in places] for name in ("gains", "losses")}
    return window | parts | {"settings": window["settings"] | {"starts": list(starts)}}
