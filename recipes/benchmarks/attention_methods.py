"""The ways to read an attention map's far sums, and the yardsticks, that `attention_cost.py` puts side by side.

Shape suffixes: B batch, H heads, R query rows, T keys, D head size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from longattn_hf.attention import far_rows
from longattn_hf.attention.sampled import sampled_far_attention

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One attention layer's queries and keys.

    Attributes:
        q: [1, HQ, T, D].
        k: [1, HK, T, D].
        min_distance: The paper's k.
    """

    q: Tensor
    k: Tensor
    min_distance: int

    @property
    def tokens(self) -> int:
        """T."""
        return self.q.shape[2]

    def expanded_keys(self) -> Tensor:
        """The keys once for each query head, as the yardsticks that know no grouped heads take them."""
        return self.k.repeat_interleave(self.q.shape[1] // self.k.shape[1], dim=1)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Something to time.

    Attributes:
        run: Does the work once and returns what `kind` says.
        kind: "rows" returns ([1, HQ, R] mass, energy); "sums" returns ([heads] mass, energy) over all rows;
            "output" returns attention's output [1, HQ, T, D]; "estimate" returns dependency strength's mean over the
            heads and its standard error.
        positions: [R] of the rows that `run` returns.
        share: The share of the heads that `run` goes through; times are divided by it.
    """

    run: Callable[[], Tensor | tuple[Tensor, Tensor]]
    kind: str
    positions: Tensor | None = None
    share: float = 1.0


def materialised(problem: Problem, *, heads: int) -> Method:
    """The authors' way: a head's whole map, masked, in float32, a far copy, its variance and sum, and map times value.

    The heads go one after the other, so the first `heads` of them stand for all.
    """
    q, k, v = problem.q[0, :heads], problem.expanded_keys()[0, :heads], problem.expanded_keys()[0, :heads]
    tokens = problem.tokens
    unseen = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu_(1)

    def run() -> tuple[Tensor, Tensor]:
        sums, squares = [], []
        for q_TD, k_TD, v_TD in zip(q, k, v, strict=True):
            logits = q_TD @ k_TD.T / math.sqrt(q.shape[-1])
            logits = logits.masked_fill(unseen, torch.finfo(q.dtype).min)
            weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(q.dtype)
            del logits
            weights @ v_TD
            far = weights.tril(-problem.min_distance)
            del weights
            total, variance, entries = far.sum(dtype=torch.float32), far.var(), tokens**2
            sums.append(total)
            squares.append(variance * (entries - 1) + total**2 / entries)
        return torch.stack(sums), torch.stack(squares)

    return Method(run=run, kind="sums", share=heads / problem.q.shape[1])


def sdpa(problem: Problem, backend: str) -> Method:
    """PyTorch's attention forward: the cost of a layer that is run rather than read."""
    k = problem.expanded_keys()

    def run() -> Tensor:
        with sdpa_kernel(_BACKENDS[backend]):
            return scaled_dot_product_attention(problem.q, k, k, is_causal=True)

    return Method(run=run, kind="output")


def flash_attn(problem: Problem) -> Method:
    """The flash-attn package's forward (version 3 where it is installed)."""
    if find_spec("flash_attn_interface"):
        from flash_attn_interface import flash_attn_func
    else:
        from flash_attn import flash_attn_func
    q, k = problem.q.transpose(1, 2).contiguous(), problem.k.transpose(1, 2).contiguous()

    def run() -> Tensor:
        out = flash_attn_func(q, k, k, causal=True)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return Method(run=run, kind="output")


def log_sum_exp(problem: Problem) -> Method:
    """Flash passes alone: over the far keys, over these with doubled logits, and over the near ones of the same rows.

    All are causal attention of slices, 1.5 causal triangles where k is a quarter of T: the near band is cut in blocks
    of k rows, whose own keys are one triangle and whose keys before are another, back to front.
    """
    far, scale = problem.min_distance, problem.q.shape[-1] ** -0.5
    q, k = problem.q, problem.expanded_keys()
    late_q, early_k = q[:, :, far:].contiguous(), k[:, :, : problem.tokens - far].contiguous()

    def blocks(x: Tensor) -> Tensor:
        """[1, H, R, D] as [blocks, H, k, D], zeros after the last row, which no row before sees."""
        x = pad(x, (0, 0, 0, -x.shape[2] % far))
        return x.unflatten(2, (-1, far)).squeeze(0).transpose(0, 1).contiguous()

    q_blocks, own_k = blocks(late_q), blocks(k[:, :, far:])
    previous_k = blocks(k[:, :, : len(q_blocks) * far])
    # row j of a block sees the keys behind place j of the block before it
    turned_q, turned_k = q_blocks.flip(2)[:, :, 1:].contiguous(), previous_k.flip(2)[:, :, :-1].contiguous()

    def lse(q: Tensor, k: Tensor, scale: float) -> Tensor:
        if q.device.type == "cpu":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, k, 0.0, True, scale=scale)[1]
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, k, 0.0, True, scale=scale)[1]

    def run() -> tuple[Tensor, Tensor]:
        near, before = lse(q_blocks, own_k, scale), lse(turned_q, turned_k, scale)
        near[:, :, :-1] = torch.logaddexp(near[:, :, :-1], before.flip(2))
        lse_far = lse(late_q, early_k, scale)
        total = torch.logaddexp(near.transpose(0, 1).flatten(1)[:, : lse_far.shape[2]], lse_far)
        return torch.exp(lse_far - total), torch.exp(lse(late_q, early_k, 2 * scale) - 2 * total)

    return Method(run=run, kind="rows", positions=torch.arange(far, problem.tokens, device=q.device))


def streaming(problem: Problem, impl: str) -> Method:
    """This package's exact pass over all rows with a far key."""
    positions = torch.arange(problem.min_distance, problem.tokens, device=problem.q.device)
    q = problem.q[:, :, problem.min_distance :]

    def run() -> tuple[Tensor, Tensor]:
        return far_rows(q, problem.k, min_distance=problem.min_distance, positions=positions, impl=impl)

    return Method(run=run, kind="rows", positions=positions)


def sampled(problem: Problem, impl: str, *, row_fraction: float, **options: int) -> Method:
    """This package's estimate from a share of the rows."""

    def run() -> tuple[Tensor, Tensor]:
        estimate = sampled_far_attention(
            problem.q, problem.k, min_distance=problem.min_distance, row_fraction=row_fraction, impl=impl, **options
        )
        return estimate.far.far_mass[0].mean() / problem.tokens, estimate.dependency_strength_error[0]

    return Method(run=run, kind="estimate")


def make_method(name: str, problem: Problem, *, heads: int) -> Method:
    """Makes the method called `name`, one of `METHODS`."""
    if name == "materialised":
        return materialised(problem, heads=heads)
    if name.startswith("sdpa "):
        return sdpa(problem, name.removeprefix("sdpa "))
    if name == "flash-attn":
        return flash_attn(problem)
    if name == "log-sum-exp":
        return log_sum_exp(problem)
    impl, *options = name.split()
    if not options:
        return streaming(problem, impl)
    return sampled(problem, impl, row_fraction=1 / 16, **({"guess_keys": 0} if "bare" in options else {}))


METHODS = (
    "materialised", "sdpa flash", "sdpa cudnn", "sdpa efficient", "flash-attn", "log-sum-exp",
    "blockwise", "blockwise 1/16", "blockwise 1/16 bare", "fused", "fused 1/16", "fused 1/16 bare",
)  # fmt: skip


def available(device: torch.device) -> list[str]:
    """The methods that can run on a device."""
    missing = set() if find_spec("flash_attn") or find_spec("flash_attn_interface") else {"flash-attn"}
    if device.type == "cpu":
        missing |= {"sdpa cudnn", "sdpa efficient", "flash-attn"} | {name for name in METHODS if "fused" in name}
    return [name for name in METHODS if name not in missing]


def check(method: Method, problem: Problem) -> float:
    """Compares a method with the float64 oracle.

    Rows and outputs are compared at 48 positions across the sequence in up to eight heads; sums and estimates, which
    have no rows, with what `blockwise` gives, whose rows are compared so.

    Returns:
        The largest error over the largest value of the quantity, the worse of mass and energy; of an estimate its
        error in standard errors.
    """
    if method.kind == "estimate":
        estimate, error = method.run()
        exact = streaming(problem, "blockwise").run()[0].sum(-1, dtype=torch.float64).mean() / problem.tokens
        return float((estimate - exact).abs() / error)
    if method.kind == "sums":
        actual = [value.double() for value in method.run()]
        rows = streaming(problem, "blockwise").run()
        exact = [value.sum(-1, dtype=torch.float64)[0, : len(a)] for value, a in zip(rows, actual, strict=True)]
        return max(_largest_error(a, e) for a, e in zip(actual, exact, strict=True))
    heads = slice(0, min(8, problem.q.shape[1]))
    group = problem.q.shape[1] // problem.k.shape[1]
    keys = problem.k.repeat_interleave(group, dim=1)[:, heads].double()
    there = method.positions if method.kind == "rows" else torch.arange(problem.tokens, device=keys.device)
    at = torch.linspace(0, len(there) - 1, 48, device=keys.device).long().unique()
    q = problem.q[:, heads][:, :, there[at]].double()
    result = method.run()
    if method.kind == "rows":
        exact = far_rows(q, keys, min_distance=problem.min_distance, positions=there[at], impl="reference")
        return max(_largest_error(r[:, heads][..., at].double(), e) for r, e in zip(result, exact, strict=True))
    logits = (q @ keys.mT) * q.shape[-1] ** -0.5
    seen = torch.arange(problem.tokens, device=keys.device) <= there[at][:, None]
    exact = logits.masked_fill(~seen, -torch.inf).softmax(-1) @ keys
    return _largest_error(result[:, heads][:, :, at].double(), exact)


def _largest_error(actual: Tensor, exact: Tensor) -> float:
    return float((actual - exact).abs().max() / exact.abs().max())


def matmul_rate(device: torch.device, dtype: torch.dtype, time: Callable[[Callable], float]) -> float:
    """Multiply-adds times two per second, of a large square product."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / time(lambda: a @ a)


def exp_rate(device: torch.device, time: Callable[[Callable], float]) -> float:
    """Base-2 exponentials per second in float32, where no memory is in the way."""
    if device.type == "cpu":
        # fits the cache of a core; the result of exp2 of [-1, 1] stays in range when written back
        x = torch.rand(2**17 * torch.get_num_threads()) - 1
        out = torch.empty_like(x)

        def fill() -> None:
            for _ in range(100):
                torch.exp2(x, out=out)

        return 100 * x.numel() / time(fill)

    import triton
    import triton.language as tl

    @triton.jit
    def repeated_exp2(out, repeats, block: tl.constexpr):  # noqa: ANN001, ANN202
        o = tl.program_id(0) * block + tl.arange(0, block)
        b_x = o * -1e-6
        for _ in range(repeats):
            # four steps a turn, so that the loop's own cost vanishes
            b_x = tl.exp2(tl.exp2(tl.exp2(tl.exp2(b_x))))
        tl.store(out + o, b_x)

    block, programs, repeats = 1024, 4096, 256
    out = torch.empty(block * programs, device=device)
    return 4 * repeats * out.numel() / time(lambda: repeated_exp2[(programs,)](out, repeats, block, num_warps=4))
