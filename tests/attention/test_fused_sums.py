"""What the fused kernel's sums hold where float32 ends: in Triton's interpreter, in a process of its own."""

import pytest

pytest.importorskip("triton", reason="the fused kernel needs Triton")

OVERFLOW = """
import torch
from longattn_hf.attention import far_rows, fused

largest, starts = fused._largest, []

def recorded(q, o_n, keys, start, *rest):
    starts.append(int(start.handle.data.item()))
    return largest(q, o_n, keys, start, *rest)

fused._largest = recorded
tile = fused.Tile(rows=16, keys=16, warps=4, stages=1)
generator = torch.Generator().manual_seed(0)
k = torch.randn(1, 1, 64, 16, generator=generator)
noise = torch.randn(1, 1, 64, 16, generator=generator)
noise[..., 0] = 0
arguments = dict(min_distance=16, scale=1.0, positions_R=torch.arange(64), tile=tile)
plain = fused.far_rows(noise, k, **arguments)

# e^40 squared fits float32, e^50 does not, nor does e^100
for above, redone in ((40, 0), (50, 2), (100, 2), (800, 2)):
    q, high = noise.clone(), k.clone()
    high[..., 0, 0] = above
    # three rows of two tiles see a key that far above all others; the last tile's row is its first
    for row in (40, 41, 48):
        q[..., row, 0] = 1
    starts.clear()
    sums = fused.far_rows(q, high, **arguments)
    assert starts.count(0) == redone, starts
    exact = far_rows(q.double(), high.double(), min_distance=16, scale=1.0, impl="reference")
    for power, actual, wanted, before in zip((1, 2), sums, exact, plain, strict=True):
        torch.testing.assert_close(actual.double(), wanted, rtol=power * 1e-4, atol=64 * 2.0**-126)
        others = torch.ones(64, dtype=torch.bool)
        others[[40, 41, 48]] = False
        # a row's neighbours in its tile do not feel that it is done again
        assert torch.equal(actual[..., others], before[..., others])
print("done")
"""


LONG = """
import torch
from longattn_hf.attention import far_rows, fused

# 16 rows at the end of a window; the last 512 keys' logits are higher, so that all far weights are the same, below 1
tokens, positions = 32768, torch.arange(32768 - 16, 32768)
q, k = torch.ones(1, 1, 16, 16), torch.zeros(1, 1, tokens, 16)
k[:, :, -512:, 0] = 0.35
arguments = dict(min_distance=8192, scale=1.0)
tile = fused.Tile(rows=16, keys=512, warps=4, stages=1)
sums = fused.far_rows(q, k, positions_R=positions, tile=tile, **arguments)
exact = far_rows(q.double(), k.double(), positions=positions, impl="reference", **arguments)
for actual, wanted in zip(sums, exact, strict=True):
    # 3,072 equal weights a part, added one by one, would be wrong by 1e-5
    torch.testing.assert_close(actual.double(), wanted, rtol=2e-6, atol=0)
print("done")
"""


def test_sums_of_rows_that_overflow_and_of_long_rows_agree_with_float64(run_python):
    environment = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    # the first holds on to what it has replaced
    program = f"{OVERFLOW}\nfused._largest = largest\n{LONG}"
    assert run_python(program, **environment).stdout == "done\n" * 2
