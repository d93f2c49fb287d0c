import math
import subprocess
import sys

import pytest
import torch

from longattn_hf.attention import far_attention, far_rows, pick_impl
from tests.helpers import AttentionLadder, draw


class TestReference(AttentionLadder):
    impl = "reference"


class TestBlockwise(AttentionLadder):
    impl = "blockwise"


def test_uniform_attention_has_the_dependency_strength_that_calculus_says():
    tokens = 32768
    sums = far_attention(
        torch.zeros(1, 1, tokens, 4), torch.ones(1, 1, tokens, 4), min_distance=tokens // 4, impl="blockwise"
    )
    # the sum over rows against its integral: off by half an entry at each end
    assert sums.far_mass.item() / tokens == pytest.approx(3 / 4 - math.log(4) / 4, abs=1 / tokens)


def test_rounded_probabilities_are_those_of_the_map_in_that_dtype():
    q, k = draw(heads=2, tokens=100, gain=3.0)
    logits = (q @ k.transpose(-1, -2) / 8).masked_fill(torch.ones(100, 100).triu(1).bool(), -torch.inf)
    far = logits.softmax(-1).half().tril(-25).double()
    sums = far_attention(q, k, min_distance=25, probability_dtype=torch.float16)
    assert sums.impl == "reference"
    torch.testing.assert_close(sums.far_mass[0], far.sum((-1, -2))[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(sums.far_energy[0], far.square().sum((-1, -2))[0], rtol=1e-6, atol=0)
    exact = far_attention(q, k, min_distance=25)
    assert ((sums.far_mass - exact.far_mass).abs() > 1e-6).all()


def test_auto_picks_by_device_and_says_so():
    q, k = draw(tokens=10)
    assert far_attention(q, k, min_distance=2).impl == "blockwise"
    assert pick_impl("auto", torch.device("cpu")) == "blockwise"
    assert pick_impl("auto", torch.device("cpu"), probability_dtype=torch.float16) == "reference"
    assert pick_impl("auto", torch.device("cuda"), probability_dtype=torch.float16) == "reference"
    assert pick_impl("reference", torch.device("cuda")) == "reference"


def test_without_triton_auto_is_blockwise_and_fused_is_an_error():
    program = (
        "import sys, torch; from longattn_hf.attention import far_attention, pick_impl\n"
        "sys.modules['triton'] = None\n"
        "assert pick_impl('auto', torch.device('cuda')) == 'blockwise'\n"
        "q = torch.ones(1, 1, 4, 2)\n"
        "assert far_attention(q, q, min_distance=1).impl == 'blockwise'\n"
        "try: far_attention(q, q, min_distance=1, impl='fused')\n"
        "except ImportError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "refused", done.stderr


Q, K = draw(seqs=2, heads=4, key_heads=2, tokens=10, head_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(q=Q[0]), r"\[batch, heads, tokens, head size\].*q is \[4, 10, 8\]"),
        (dict(q=Q[:1]), "agree in batch"),
        (dict(q=Q[..., :4]), "agree in batch and head size"),
        (dict(k=K[:, :, :0]), "must not be empty"),
        (dict(q=Q[:, :3]), "multiple of the number of key heads"),
        (dict(q=Q[:, :0]), "multiple of the number of key heads"),
        (dict(q=Q.long(), k=K.long()), "floating-point dtype"),
        (dict(q=Q.half()), r"q is torch.float16 on cpu and k is torch.float32"),
        (dict(min_distance=-1), "at least 0, not -1"),
        (dict(min_distance=2.0), "must be an integer"),
        (dict(scale=math.nan), "scale must be finite"),
        (dict(lengths=torch.tensor([1])), r"lengths must be integers of shape \[2\]"),
        (dict(lengths=torch.tensor([1.0, 2.0])), "lengths must be integers"),
        (dict(lengths=torch.tensor([1, 11])), r"lengths must lie in \[0, 10\]"),
        (dict(impl="flash"), "auto, reference, blockwise, fused, not 'flash'"),
        (dict(impl="blockwise", probability_dtype=torch.float16), "use impl='reference'"),
        (dict(probability_dtype=torch.int8), "must be a floating-point dtype"),
        (dict(q=Q[:, :, :5]), "a row for each of the 10 keys"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    arguments = dict(q=Q, k=K, min_distance=2) | change
    with pytest.raises(ValueError, match=message):
        far_attention(**arguments)
    with pytest.raises(ValueError, match=message):
        far_rows(**arguments)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (torch.arange(9), r"positions must be integers of shape \[10\]"),
        (torch.arange(10).bool(), "positions must be integers"),
        (torch.arange(1, 11), r"positions must lie in \[0, 9\]"),
        (torch.arange(10).flip(0), "ascending order"),
    ],
)
def test_wrong_positions_are_named(positions, message):
    with pytest.raises(ValueError, match=message):
        far_rows(Q, K, min_distance=2, positions=positions)
