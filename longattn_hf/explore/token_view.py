"""One window looked at token by token: who attends far back, how far, and to what.

Shape suffixes: H key heads, G query heads of a key head, Q all query heads, R rows, T keys, E edges, D head size.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from longattn_hf.attention.api import FarAttention, far_rows
from longattn_hf.columns import DEPENDENCY_STRENGTH, ID, SKIP_REASON
from longattn_hf.columns.features import SCORE_FEATURES
from longattn_hf.explore.token_texts import Received, name_text, show_token, sum_by_text, token_texts
from longattn_hf.explore.why import say_attention
from longattn_hf.pages.page import render_page, visible
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.scoring.map_scores import map_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# rows read for the profile, and rows whose far tokens a page lists
_ROWS = 512
# texts whose far attention a page lists
_TEXTS = 12
# what a page begins with, and is known by
_START = 'LongAttn.tokenView(document.getElementById("view"), data);'
# entries of the map that are held at once, over all heads: 64 MB in float32
_ENTRIES = 2**24


@dataclass(frozen=True, kw_only=True)
class FarToken:
    """A far token that another one attends to: its position from 0, its text, and the heads' mean attention to it."""

    position: int
    text: str
    attention: float


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """A window's tokens and where they look; shows itself in a notebook.

    Attributes:
        title: What is looked at.
        tokens: The tokens' texts `[T]`; one that ends inside a character is empty, and the next one holds it.
        far_share: float64 `[T]` in [0, 1], the heads' mean share of each token's attention that goes at least
            `min_distance` tokens back.
        min_distance: The paper's k in tokens.
        head_strength: float64 `[HQ]`, the dependency strength of each head.
        scores: The window's scores, the same as the scorer's.
    """

    title: str
    tokens: list[str]
    far_share: np.ndarray
    min_distance: int
    head_strength: np.ndarray
    scores: dict[str, float]
    _q: Tensor = field(repr=False)
    _k: Tensor = field(repr=False)
    _scale: float = field(repr=False)
    _causal: bool = field(repr=False, default=True)

    def top_far(self, position: int, count: int = 8) -> list[FarToken]:
        """Returns the far tokens that a token attends to most, on the heads' mean, strongest first.

        Raises:
            ValueError: There is no such token.
        """
        if not 0 <= position < len(self.tokens):
            raise ValueError(f"position={position} must lie in [0, {len(self.tokens)}).")
        (listed,) = self._top_far(np.array([position]), count).values()
        return [FarToken(position=key, text=self.tokens[key], attention=weight) for key, weight in listed]

    @cached_property
    def profile(self) -> dict[str, np.ndarray]:
        """The attention mass by distance, the mean over heads and rows, beside that of uniform attention.

        At most 512 rows are read, one drawn from each of as many runs of consecutive rows; both masses are those of
        the same rows.

        Returns:
            `edges`, int64 `[E]`: bin b holds the distances in [edges[b], edges[b + 1]), two bins an octave and a cut
            at `min_distance`; `attention` and `uniform`, float64 `[E - 1]`, each summing to 1, or to the share of what
            lies behind where the convention's rows see later keys too; `rows`, int64 `[R]`; `received` and `even`,
            float64 `[T]`: the far attention of those rows that each token receives, and would if it were uniform.
        """
        length = len(self.tokens)
        edges = {0, length, self.min_distance, *(round(2 ** (half / 2)) for half in range(2 * length.bit_length()))}
        edges_E = np.array(sorted(edge for edge in edges if edge <= length))
        bounds = np.linspace(0, length, min(length, _ROWS) + 1).astype(int)
        rows = np.random.default_rng(0).integers(bounds[:-1], bounds[1:])
        beyond_E, received_T = np.zeros(len(edges_E)), np.zeros(length)
        for block_R, map_RT in self._rows(rows):
            # mass at distance e or more = the sum over the first n + 1 - e keys
            map_RT = map_RT.double()
            sums_RT = np.pad(map_RT.cumsum(1).numpy(), ((0, 0), (1, 0)))
            count_RE = (block_R[:, None] + 1 - edges_E).clip(0, map_RT.shape[1])
            beyond_E += np.take_along_axis(sums_RT, count_RE, 1).sum(0)
            far_RT = block_R[:, None] - np.arange(map_RT.shape[1]) >= self.min_distance
            received_T[: map_RT.shape[1]] += (map_RT.numpy() * far_RT).sum(0)
        seen_R1 = self._seen(rows)[:, None]
        uniform_E = ((rows[:, None] + 1 - edges_E).clip(0, seen_R1) / seen_R1).mean(0)
        # a key is far of the rows from `min_distance` behind it on
        later_R = np.append(np.cumsum(1 / seen_R1[::-1, 0])[::-1], 0)
        even_T = later_R[np.searchsorted(rows, np.arange(length) + self.min_distance)]
        even_T[self._k.shape[2] :] = 0
        return {
            "edges": edges_E,
            "attention": -np.diff(beyond_E / len(rows)),
            "uniform": -np.diff(uniform_E),
            "rows": rows,
            "received": received_T,
            "even": even_T,
        }

    @cached_property
    def by_text(self) -> list[Received]:
        """What the tokens of each text receive of the far attention of the profile's rows, most first."""
        return sum_by_text(self.tokens, self.profile["received"], self.profile["even"])

    def why(self) -> list[str]:
        """Says in sentences where the attention goes."""
        rows, received = np.arange(len(self.tokens)), self.profile["received"]
        seen = self._seen(rows)
        return say_attention(
            self.by_text,
            strength=self.scores[DEPENDENCY_STRENGTH],
            even=float(((rows + 1 - self.min_distance).clip(0, seen) / seen).mean()),
            min_distance=self.min_distance,
            first=float(received[0] / (received.sum() or 1)),
            heads=self.head_strength,
        )

    def plot(self) -> "Figure":
        """Draws the far share along the window, the profile and the heads' strengths; needs matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 6.5), layout="constrained")
        along, by_distance, by_head = figure.subplot_mosaic([["along", "along"], ["distance", "heads"]]).values()
        runs = np.array_split(self.far_share, min(len(self.tokens), 400))
        along.plot(np.cumsum([len(run) for run in runs]), [run.mean() for run in runs], color="#0072B2")
        along.set(xlabel="token", ylabel="far share", ylim=(0, None))
        along.set_title(visible(self.title), parse_math=False)
        edges, attention, uniform = (self.profile[name] for name in ("edges", "attention", "uniform"))
        # a logarithmic axis has no place for distance 0, the token itself
        places = np.maximum(edges, 0.5)
        by_distance.stairs(attention, places, fill=True, color="#B8BEC5", label="attention")
        by_distance.stairs(uniform, places, color="#117A5B", linewidth=1.6, label="uniform attention")
        by_distance.axvline(max(self.min_distance, 0.5), color="#D55E00", linestyle="--", label="min_distance")
        by_distance.set(xscale="log", xlabel="distance in tokens", ylabel="share of the attention")
        by_distance.legend(frameon=False)
        by_head.bar(np.arange(len(self.head_strength)), self.head_strength, color="#0072B2")
        by_head.axhline(self.scores[DEPENDENCY_STRENGTH], color="#D55E00", linestyle="--")
        by_head.set(xlabel="head", ylabel="dependency strength")
        return figure

    def to_data(self, *, listed_rows: int = _ROWS) -> dict[str, Any]:
        """Returns the plain values that the page's script draws.

        Args:
            listed_rows: For how many tokens, those that attend far back most, the far tokens are listed.
        """
        order = np.argsort(-self.far_share, kind="stable")[:listed_rows]
        listed = np.sort(order[self.far_share[order] > 0])
        return {
            "key": "token",
            "title": visible(self.title),
            "facts": [[name.replace("_", " "), value] for name, value in self.scores.items()]
            + [["tokens", len(self.tokens)], ["min distance", self.min_distance]],
            "tokens": [show_token(token) for token in self.tokens],
            "share": np.round(1000 * self.far_share).astype(int).tolist(),
            "far": {str(row): pairs for row, pairs in self._top_far(listed, 5).items()},
            "minDistance": self.min_distance,
            "heads": self.head_strength.tolist(),
            "profile": {name: self.profile[name].tolist() for name in ("edges", "attention", "uniform")},
            "profileRows": len(self.profile["rows"]),
            "why": self.why(),
            "byText": [[name_text(one.text), one.places, one.share, one.even] for one in self.by_text[:_TEXTS]],
            # how many keys a token's row sees: all of them, or those up to it
            "seen": {"keys": self._k.shape[2], "causal": self._causal},
        }

    def to_html(self, *, why: Sequence[str] = ()) -> str:
        """Returns a self-contained page, for any browser; `why` are sentences that go before its own."""
        body = '<main><div id="view"></div></main>'
        data, scripts = self.to_data(), ("plots.js", "token_view.js")
        data["why"] = [*why, *data["why"]]
        return render_page(title=self.title, body=body, data=data, scripts=scripts, start=_START)

    def _repr_html_(self) -> str:
        # a frame of its own: a notebook's styles stay out, and a document's text cannot touch the notebook
        source = html.escape(self.to_html())
        return (
            f'<iframe title="LongAttn token view" sandbox="allow-scripts" srcdoc="{source}" '
            'style="width: 100%; height: 720px; border: 0"></iframe>'
        )

    def _top_far(self, rows: np.ndarray, count: int) -> dict[int, list[tuple[int, float]]]:
        """For each row, in ascending order, the `(position, attention)` of its strongest far tokens."""
        mentioned: dict[int, list[tuple[int, float]]] = {}
        for block_R, map_RT in self._rows(rows):
            distance_RT = torch.from_numpy(block_R)[:, None] - torch.arange(map_RT.shape[1])
            top = map_RT.masked_fill(distance_RT < self.min_distance, 0).topk(min(count, map_RT.shape[1]))
            for row, keys, weights in zip(block_R.tolist(), top.indices.tolist(), top.values.tolist(), strict=True):
                mentioned[row] = [(key, weight) for key, weight in zip(keys, weights, strict=True) if weight > 0]
        return mentioned

    def _seen(self, rows: np.ndarray) -> np.ndarray:
        """How many keys each of these rows sees."""
        return (rows + 1 if self._causal else np.full_like(rows, self._k.shape[2])).clip(max=self._k.shape[2])

    def _rows(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yields ascending rows of the map, block by block: their positions and, on the CPU, their mean over heads."""
        step = max(1, _ENTRIES // (self._q.shape[1] * len(self.tokens)))
        for start in range(0, len(rows), step):
            block_R = rows[start : start + step]
            positions_R = torch.from_numpy(block_R)
            yield block_R, _mean_map(self._q[0], self._k[0], self._scale, positions_R, self._causal).cpu()


def is_page(text: str) -> bool:
    """Says whether a file's text is a page that `TokenView.to_html` made."""
    return _START in text


def explain(window: Mapping[str, Any] | str, scorer: LongAttnScorer, *, title: str | None = None) -> TokenView:
    """Looks at one window token by token; its attention map is streamed, never held.

    Args:
        window: A row of a dataset, as the scorer takes it, or a text.
        scorer: The settings of the scores.
        title: What to call it; by default the window's `source` or `id`.

    Returns:
        What each token attends to; in a notebook it shows itself, and `plot()` draws it.

    Raises:
        ValueError: As the scorer: no usable column, or a bad window.
    """
    if isinstance(window, str):
        window = {scorer.text_column: window}
    # the reasons are of the scorers that somebody ran before
    window = {name: value for name, value in window.items() if name != SKIP_REASON}
    ids = scorer.token_ids(window)
    ids_BT, reading = scorer.read_as_declared(torch.from_numpy(ids)[None])
    ids = ids_BT[0].numpy()
    min_distance = scorer.min_distance if scorer.min_distance is not None else len(ids) // 4
    with torch.inference_mode():
        q, k, scale = scorer.load_layer().query_key(ids_BT)
        mass_BQT, energy_BQT = far_rows(q, k, min_distance=min_distance, scale=scale, impl=scorer.impl, **reading)
    far = FarAttention(mass_BQT.sum(-1, dtype=torch.float64), energy_BQT.sum(-1, dtype=torch.float64), scorer.impl)
    by_head = {name: values[0].cpu().numpy() for name, values in map_scores(far, len(ids), min_distance).items()}
    scores = {name: float(by_head[name].mean()) for name in SCORE_FEATURES}
    if not np.isfinite(list(scores.values())).all():
        raise ValueError(f"The scores are not finite: the model's activations overflow in {q.dtype}; use 'float32'.")
    return TokenView(
        title=title or str(window.get("source") or window.get(ID) or "Window"),
        tokens=token_texts(ids, scorer.load_tokenizer()),
        far_share=mass_BQT[0].double().mean(0).cpu().numpy(),
        min_distance=min_distance,
        head_strength=by_head[DEPENDENCY_STRENGTH],
        scores=scores,
        _q=q,
        # rows of padding see no keys of padding
        _k=k if reading.get("lengths") is None else k[:, :, : int(reading["lengths"][0])],
        _scale=scale,
        _causal=reading.get("causal", True),
    )


def _mean_map(q_QTD: Tensor, k_HTD: Tensor, scale: float, positions_R: Tensor, causal: bool) -> Tensor:
    """Rows of the map, `[R, keys up to the last row]` or all keys, the mean over the heads."""
    dtype = torch.promote_types(q_QTD.dtype, torch.float32)
    positions_R = positions_R.to(q_QTD.device)
    k_HTD = k_HTD[:, : int(positions_R[-1]) + 1 if causal else None].to(dtype)
    q_HND = (q_QTD[:, positions_R].to(dtype) * scale).unflatten(0, (len(k_HTD), -1)).flatten(1, 2)
    with torch.inference_mode():
        logits_QRT = torch.bmm(q_HND, k_HTD.mT).unflatten(1, (-1, len(positions_R))).flatten(0, 1)
        if causal:
            ahead_RT = torch.arange(k_HTD.shape[1], device=positions_R.device) > positions_R[:, None]
            logits_QRT.masked_fill_(ahead_RT, -torch.inf)
        return logits_QRT.softmax(-1).mean(0)
