"""Two ways to the queries and keys of a transformers model: stopping at its first attention call, or watching each.

transformers hands the queries and keys of most architectures, after RoPE, to a registered attention function. One of
those registered here raises instead of computing, and the mask function beside it keeps the mask's rule, not a mask;
the other shows them to observers and computes as usual.

Shape suffixes: B batch, H heads, T and S tokens, D head size.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

#: The names under which models are asked to use the attention functions below.
STOPS_AT_ATTENTION = "longattn_stops_at_attention"
SHOWS_ATTENTION = "longattn_observed_sdpa"
#: Called with each layer's attention.
Observer = Callable[["AttentionCall"], None]
_observers: list[Observer] = []

# arguments that leave softmax(scale * q k^T) over the mask as it is
_HARMLESS = {
    "cache_position",
    "dropout",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_ids",
    "return_dict",
    "scaling",
    "sliding_window",
    "use_cache",
}
_MASK_ROWS = 512
_MEANING = {
    "softcap": " (logit soft-capping: attn_logit_softcapping in the configuration)",
    "s_aux": " (attention sinks)",
}
_ACCEPTED = "Choose a model of plain softmax attention, such as a Llama, Mistral, Qwen or OLMo."


class OutOfReachError(ValueError):
    """A window is longer than a layer sees in full."""


@dataclass(frozen=True, kw_only=True)
class _MaskRule:
    allows: Callable[..., Any]


class _Reached(Exception):
    def __init__(self, call: "AttentionCall") -> None:
        super().__init__("the first attention was reached")
        self.call = call


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """A model's call of its attention, the first one where no title says otherwise.

    Attributes:
        module: The attention module.
        q: Queries `[B, HQ, T, D]`, after RoPE and any norm.
        k: Keys `[B, HK, T, D]`, likewise.
        v: Values; unused but for the model's own eager attention, which wants some.
        mask: The rule of the mask, None, or a mask that the model made by itself.
        arguments: The other named arguments.
        title: What messages call the layer.
    """

    module: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Any
    arguments: Mapping[str, Any]
    title: str = "The first attention layer"

    @property
    def scale(self) -> float:
        """What q k^T is multiplied by."""
        scaling = self.arguments.get("scaling")
        return self.q.shape[-1] ** -0.5 if scaling is None else scaling

    def refuse_unless_plain(self) -> None:
        """Checks that the layer's map is causal softmax(scale * q k^T) but for a limited reach.

        Raises:
            ValueError: It is not, or it takes an argument that is not known to leave it so.
        """
        if not isinstance(self.scale, float | int):
            raise ValueError(f"{self.title} is scaled by {type(self.scale).__name__}, not by one number.")
        for name, value in self.arguments.items():
            if value is not None and name not in _HARMLESS:
                shown = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise ValueError(
                    f"{self.title} ({type(self.module).__name__}) is given {name}={shown}"
                    f"{_MEANING.get(name, '')}, which changes its map in a way that is not computed here. {_ACCEPTED}"
                )
        is_causal = self.arguments.get("is_causal")
        if not (getattr(self.module, "is_causal", True) if is_causal is None else is_causal):
            raise ValueError(f"{self.title} ({type(self.module).__name__}) is not causal: an encoder?")
        if not isinstance(self.mask, _MaskRule | None):
            raise ValueError(f"The model makes a mask of its own ({type(self.mask).__name__}), which cannot be read.")

    def reaches_everywhere(self) -> bool:
        """Tells whether every position sees exactly itself and all before it, as far as the mask's edges show."""
        length = self.q.shape[2]
        window = self.arguments.get("sliding_window")
        if window is not None and length > window:
            return False
        if self.mask is None or self.mask.allows is causal_mask_function:
            return True
        at = torch.arange(length, device=self.q.device)
        first, last = at.new_zeros(()), at.new_full((), length - 1)
        # windows and chunks hide the first key or blind the last query; blocks show some query its successor
        return all(
            bool(torch.as_tensor(seen).all())
            for seen in (
                self.mask.allows(first, first, at, first),
                self.mask.allows(first, first, last, at),
                ~torch.as_tensor(self.mask.allows(first, first, at[:-1], at[1:])),
            )
        )

    def prove_plain(self) -> None:
        """Checks that the model's own eager attention gives causal softmax(scale * q k^T) of these q and k.

        Raises:
            ValueError: It does not, or q and k are not finite.
        """
        q_BHTD, k_BKTD = self.q.float(), self.k.float()
        if not (q_BHTD.isfinite().all() and k_BKTD.isfinite().all()):
            raise ValueError(
                f"The first layer's queries or keys are not finite in {self.q.dtype}: the checkpoint is damaged, or "
                "its activations overflow. Fetch the model again, or use dtype='float32'."
            )
        eager = getattr(sys.modules[type(self.module).__module__], "eager_attention_forward", None)
        if eager is None:
            return
        length = q_BHTD.shape[2]
        causal_TS = torch.full((length, length), torch.finfo(torch.float32).min, device=q_BHTD.device).triu(1)
        _, theirs_BHTS = eager(self.module, q_BHTD, k_BKTD, self.v.float(), causal_TS[None, None], **self.arguments)
        k_BHTD = k_BKTD.repeat_interleave(q_BHTD.shape[1] // k_BKTD.shape[1], dim=1)
        scores_BHTS = q_BHTD @ k_BHTD.mT * self.scale
        ours_BHTS = (scores_BHTS + causal_TS).softmax(-1)
        # a logit is rounded in proportion to its size, and a probability moves by as much as its logit
        tolerance = 1e-6 + 32 * torch.finfo(torch.float32).eps * scores_BHTS.abs().max()
        if not ((theirs_BHTS - ours_BHTS).abs().max() <= tolerance):
            raise ValueError(
                f"The first attention layer ({type(self.module).__name__}) does more than softmax(scale * q k^T): its "
                f"own map differs. {_ACCEPTED}"
            )


def stop_at_attention(model: PreTrainedModel, input_ids: Tensor) -> AttentionCall | None:
    """Runs a model up to its first attention call; None if it makes none.

    Args:
        model: Built with `attn_implementation=STOPS_AT_ATTENTION`.
        input_ids: int64 `[B, T]`.
    """
    try:
        # with a mask of ones no model looks for sequences packed into one row
        model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False)
    except _Reached as reached:
        return reached.call
    return None


def _stop(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **arguments: Any) -> None:
    raise _Reached(AttentionCall(module=module, q=query, k=key, v=value, mask=attention_mask, arguments=arguments))


def _keep_rule(mask_function: Callable[..., Any], **_: Any) -> _MaskRule:
    return _MaskRule(allows=mask_function)


@contextmanager
def observe_attention(observer: Observer) -> Iterator[None]:
    """Calls `observer` with each attention call, in order, while models run inside.

    Args:
        observer: Called by models that were built with `attn_implementation=SHOWS_ATTENTION`.

    Raises:
        ValueError: By such a model, where a layer's map is not causal softmax(scale * q k^T) but for a limited reach.
    """
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def _hides_alone(mask_BHTS: Tensor) -> bool:
    """Tells whether a mask shows each position itself and some or all before it, and changes no score shown."""
    if mask_BHTS.shape[-1] != mask_BHTS.shape[-2]:
        return False
    at = torch.arange(mask_BHTS.shape[-1], device=mask_BHTS.device)
    # whole, a long window's would be larger than all else
    for rows in at.split(_MASK_ROWS):
        part_BHRS = mask_BHTS[..., rows, :]
        if part_BHRS.dtype == torch.bool:
            shown_BHRS = part_BHRS
        else:
            shown_BHRS = part_BHRS == 0
            if not (shown_BHRS | (part_BHRS <= torch.finfo(part_BHRS.dtype).min / 2)).all():
                return False
        if (shown_BHRS & (at > rows[:, None])).any() or not (shown_BHRS | (at != rows[:, None])).all():
            return False
    return True


def _show(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **arguments: Any
) -> tuple[Tensor, None]:
    if _observers:
        number, mask, seen = getattr(module, "layer_idx", None), attention_mask, arguments
        if isinstance(mask, Tensor) and _hides_alone(mask):
            # a mask that is there decides what is seen, whatever the module says of itself
            mask, seen = None, arguments | {"is_causal": True}
        title = "An attention layer" if number is None else f"Attention layer {number}"
        call = AttentionCall(module=module, q=query, k=key, v=value, mask=mask, arguments=seen, title=title)
        call.refuse_unless_plain()
        for observer in _observers:
            observer(call)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)


AttentionInterface.register(STOPS_AT_ATTENTION, _stop)
AttentionMaskInterface.register(STOPS_AT_ATTENTION, _keep_rule)
AttentionInterface.register(SHOWS_ATTENTION, _show)
AttentionMaskInterface.register(SHOWS_ATTENTION, sdpa_mask)
