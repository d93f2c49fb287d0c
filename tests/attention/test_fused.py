"""The Triton kernel: on a CUDA device as it is, elsewhere under Triton's interpreter in a process of its own."""

import os
import re
import subprocess
import sys

import pytest
import torch

from longattn_hf.attention import far_rows
from tests.support.attention_ladder import AttentionLadder, assert_exact, draw

fused = pytest.importorskip("longattn_hf.attention.fused", reason="the fused kernel needs Triton")

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA and not fused.INTERPRETED else "cpu"
needs_a_runner = pytest.mark.skipif(
    not (CUDA or fused.INTERPRETED), reason="runs in the interpreter's process, which another test here starts"
)


@pytest.mark.skipif(fused.INTERPRETED, reason="this is that process")
def test_every_test_here_passes_under_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", __file__],
        capture_output=True,
        text=True,
        # two threads for arrays this small mostly wait for each other
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 50


@needs_a_runner
class TestFused(AttentionLadder):
    impl = "fused"
    device = DEVICE
    # the interpreter takes a millisecond an operation
    long = 32768 if DEVICE == "cuda" else 2048
    several_blocks = 1000 if DEVICE == "cuda" else 300
    dtypes = (torch.float32, torch.bfloat16, torch.float16)


# one block of columns; a padded one; two; two, of which the second is padded
@needs_a_runner
@pytest.mark.parametrize("head_size", [1, 16, 60, 72, 80, 96, 192, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_head_size_agrees_with_the_oracle(head_size, dtype):
    q, k = draw(heads=2, tokens=70, head_size=head_size, dtype=dtype, device=DEVICE)
    assert_exact(q, k, impl="fused", min_distance=20)


@pytest.mark.parametrize(
    ("head_size", "blocks"),
    [(1, (16, 0)), (16, (16, 0)), (60, (64, 0)), (64, (64, 0)), (72, (64, 16)), (96, (64, 32)), (120, (128, 0))]
    + [(128, (128, 0)), (160, (128, 32)), (192, (128, 64)), (224, (256, 0)), (256, (256, 0))],
)
def test_a_head_is_split_where_that_saves_columns(head_size, blocks):
    assert fused.split_head(head_size) == blocks


SMALL = fused.Tile(rows=16, keys=16, warps=4, stages=2)


def run(q, k, *, min_distance, tile=SMALL, positions=None, scale=0.125, lengths=None):
    positions = torch.arange(k.shape[2], device=q.device) if positions is None else positions
    return fused.far_rows(
        q, k, min_distance=min_distance, scale=scale, positions_R=positions, lengths_B=lengths, tile=tile
    )


@pytest.mark.skipif(not fused.INTERPRETED, reason="only the interpreter calls the spans' loop as a Python function")
@pytest.mark.parametrize(
    ("min_distance", "group", "expected"),
    [
        # rows 192 to 207: keys 0 to 91 are far for all, up to 107 for some, from 108 to 191 for none
        (100, 1, {("all", False): (0, 80), ("some", False): (80, 112), ("none", False): (112, 192)}),
        # 16 rows of 4 heads are 4 positions, 192 to 195
        (100, 4, {("all", False): (0, 80), ("some", False): (80, 96), ("none", False): (96, 192)}),
        # the far border runs through the diagonal tile and the one before
        (8, 1, {("all", False): (0, 176), ("some", False): (176, 192), ("none", False): (192, 192)}),
        (0, 1, {("all", False): (0, 192), ("some", False): (192, 192), ("none", False): (192, 192)}),
    ],
)
def test_each_span_of_keys_takes_its_own_loop(monkeypatch, min_distance, group, expected):
    spans = []
    absorb = fused._absorb

    def recorded(*args, far, diagonal):
        start, stop = (int(x.handle.data.item()) if hasattr(x, "handle") else x for x in args[8:10])
        spans.append(((far, diagonal), (start, stop)))
        return absorb(*args, far=far, diagonal=diagonal)

    monkeypatch.setattr(fused, "_absorb", recorded)
    q, k = draw(heads=group, tokens=208)
    positions = torch.arange(192, 192 + 16 // group)
    mass, energy = run(q[:, :, positions], k, min_distance=min_distance, positions=positions)
    assert dict(spans) == expected | {("some", True): (192, 192 + 16 // group)}
    exact = far_rows(
        q[:, :, positions].double(), k.double(), min_distance=min_distance, positions=positions, impl="reference"
    )
    torch.testing.assert_close(mass.double(), exact[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(energy.double(), exact[1], rtol=1e-5, atol=0)


# tile edges at, before and after the far border and the diagonal; more key than query rows in a tile, and fewer
@needs_a_runner
@pytest.mark.parametrize(
    ("rows", "keys", "min_distance"),
    [(16, 16, distance) for distance in (0, 1, 15, 16, 17, 32, 33, 64, 80)]
    + [(rows, keys, distance) for rows, keys in ((32, 16), (16, 32)) for distance in (1, 16, 31, 32, 33, 80)],
)
def test_borders_at_tile_edges_are_exact(rows, keys, min_distance):
    # a tile's rows are positions of one head, or of three side by side
    q, k = draw(heads=3 if min_distance % 2 else 1, tokens=81, device=DEVICE)
    mass, energy = run(q, k, min_distance=min_distance, tile=fused.Tile(rows=rows, keys=keys, warps=4, stages=1))
    exact = far_rows(q.double(), k.double(), min_distance=min_distance, impl="reference")
    torch.testing.assert_close(mass.double(), exact[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(energy.double(), exact[1], rtol=1e-5, atol=0)


@needs_a_runner
@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_a_scale_that_is_not_positive_is_taken_as_given(scale):
    q, k = draw(heads=2, tokens=90, device=DEVICE)
    before = q.clone()
    assert_exact(q, k, impl="fused", min_distance=20, scale=scale)
    assert torch.equal(q, before)


@needs_a_runner
@pytest.mark.parametrize(
    ("head_size", "dtype", "message"),
    [(64, torch.float64, "not torch.float64"), (257, torch.float32, "up to 256, not 257")],
)
def test_what_the_kernel_does_not_serve_is_refused(head_size, dtype, message):
    q, k = draw(tokens=10, head_size=head_size, dtype=dtype, device=DEVICE)
    with pytest.raises(ValueError, match=message):
        far_rows(q, k, min_distance=2, impl="fused")


@pytest.mark.skipif(fused.INTERPRETED, reason="the interpreter runs on the CPU")
def test_the_cpu_is_refused():
    q, k = draw(tokens=10)
    with pytest.raises(ValueError, match="not cpu; use impl='blockwise'"):
        far_rows(q, k, min_distance=2, impl="fused")


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("heads", "key_heads", "head_size"), [(9, 3, 64), (8, 2, 128), (8, 1, 128), (4, 4, 96)])
def test_a_whole_window_on_the_device_agrees_with_float64(heads, key_heads, head_size, dtype):
    q, k = draw(
        heads=heads, key_heads=key_heads, tokens=32768, head_size=head_size, dtype=dtype, device="cuda", gain=2.0
    )
    mass, energy = far_rows(q, k, min_distance=8192, impl="fused")
    # every tile row of one program, and rows across the window, for the oracle's float64 takes long
    positions = torch.cat([torch.arange(8100, 8300), torch.arange(8300, 32768, 97), torch.arange(32700, 32768)])
    rows = q[:, :, positions.cuda()].double()
    exact = far_rows(rows, k.double(), min_distance=8192, positions=positions.cuda(), impl="reference")
    # products of two 16-bit numbers are exact in float32; sums of 128 of them and the device's exp2 err by 2^-22 each
    for actual, wanted, power in zip((mass, energy), exact, (1, 2), strict=True):
        torch.testing.assert_close(actual[:, :, positions.cuda()].double(), wanted, rtol=power * 2e-5, atol=1e-12)
    assert mass.isfinite().all() and energy.isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_offsets_beyond_two_to_the_31_are_exact():
    # tokens before heads, as a projection leaves them: a row is 128 heads x 256 wide, so 70,000 rows pass 2^31
    buffer = torch.randn(1, 70_000, 128, 256, dtype=torch.bfloat16, device="cuda")
    k = buffer.transpose(1, 2)[:, 127:]
    positions = torch.tensor([69_000, 69_999], device="cuda")
    mass, _ = far_rows(k[:, :, positions], k, min_distance=17_000, positions=positions, impl="fused")
    exact, _ = far_rows(
        k[:, :, positions].double(), k.double(), min_distance=17_000, positions=positions, impl="reference"
    )
    torch.testing.assert_close(mass.double(), exact, rtol=1e-4, atol=1e-12)
