import math
from itertools import pairwise

import pytest
import torch

from longattn_hf.attention import blockwise, far_attention, far_rows, pick_impl
from tests.support.attention_ladder import AttentionLadder, assert_exact, draw


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


def test_without_triton_auto_is_blockwise_and_fused_is_an_error(run_python):
    program = (
        "import sys, torch; from longattn_hf.attention import far_attention, pick_impl\n"
        "sys.modules['triton'] = None\n"
        "assert pick_impl('auto', torch.device('cuda')) == 'blockwise'\n"
        "q = torch.ones(1, 1, 4, 2)\n"
        "assert far_attention(q, q, min_distance=1).impl == 'blockwise'\n"
        "try: far_attention(q, q, min_distance=1, impl='fused')\n"
        "except ImportError: print('refused')\n"
    )
    assert run_python(program).stdout.strip() == "refused"


def test_with_an_early_triton_auto_is_blockwise_and_fused_says_what_it_needs(run_python):
    pytest.importorskip("triton", reason="no Triton")
    program = (
        "import torch, triton; triton.__version__ = '3.5.1'\n"
        "from longattn_hf.attention import far_attention, pick_impl\n"
        "assert pick_impl('auto', torch.device('cuda')) == 'blockwise'\n"
        "q = torch.ones(1, 1, 4, 2)\n"
        "try: far_attention(q, q, min_distance=1, impl='fused')\n"
        "except ImportError as error: print(error)\n"
    )
    assert "needs Triton 3.6 or later, and here is 3.5.1" in run_python(program).stdout


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


def test_blockwise_does_only_overflowing_rows_again(monkeypatch):
    redone = []
    largest_logits = blockwise._Block._largest_logits

    def recording(self):
        redone.extend(self.positions_R.tolist())
        return largest_logits(self)

    monkeypatch.setattr(blockwise._Block, "_largest_logits", recording)
    q, k = draw(tokens=900, gain=3.0)
    assert_exact(q, k, impl="blockwise", min_distance=100)
    assert not redone
    # the logits of these three rows with key 5 exceed those with their own by about 100: exp2 of twice that overflows
    rows = [130, 400, 899]
    q[0, 0, rows, 0], k[..., 0] = 800, 0
    k[0, 0, 5, 0] = 1
    assert_exact(q, k, impl="blockwise", min_distance=100)
    assert sorted(redone) == rows


@pytest.mark.parametrize(
    ("rows", "min_distance", "borders"),
    [
        # far from all rows up to 768 and to none from 845 on, seen by all up to 1024: on these, whole units of 64
        ((1023, 1100), 256, [0, 768, 896, 1024, 1101]),
        # no mask ends at a unit's end: from 767, to 844, and from 1023
        ((1022, 1099), 256, [0, 704, 896, 960, 1100]),
        # 1728 keys without a mask are three tiles of 576, since 768 is the most
        ((1983, 2050), 256, [0, 576, 1152, 1728, 1856, 1984, 2051]),
        # 832 are two, of 416, up to whole units
        ((1087, 1100), 256, [0, 448, 832, 896, 1088, 1101]),
        # every key that a row sees is far
        ((64, 127), 0, [0, 64, 128]),
        # a single far key
        ((700, 700), 700, [0, 64, 640, 701]),
    ],
)
def test_blockwise_takes_keys_in_tiles_that_end_where_masks_begin(rows, min_distance, borders):
    positions = torch.arange(rows[0], rows[1] + 1)
    block = blockwise._Block(
        torch.zeros(1, len(positions), 4), torch.zeros(3000, 5), positions, min_distance, 768, torch.empty(0)
    )
    assert [(tile.start, tile.stop) for tile in block._tiles()] == list(pairwise(borders))


def test_blockwise_gives_the_same_bits_on_any_number_of_threads_and_leaves_the_number_alone():
    q, k = draw(heads=6, key_heads=2, tokens=1500)
    before = torch.get_num_threads()
    sums = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sums.append(far_rows(q, k, min_distance=375, impl="blockwise"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for mass, energy in sums[1:]:
        assert torch.equal(mass, sums[0][0]) and torch.equal(energy, sums[0][1])


def test_an_error_in_a_thread_of_blockwise_reaches_the_caller(monkeypatch):
    def broken(self):
        raise MemoryError("no room")

    monkeypatch.setattr(blockwise._Block, "mass_and_energy", broken)
    before = torch.get_num_threads()
    with pytest.raises(MemoryError, match="no room"):
        far_attention(*draw(tokens=600), min_distance=2, impl="blockwise")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
def test_the_callers_gradient_inference_and_autocast_modes_do_not_matter(impl):
    q, k = draw(heads=2, tokens=300)
    expected = far_attention(q, k, min_distance=75, impl=impl).far_mass
    learning = far_attention(q.clone().requires_grad_(), k.clone().requires_grad_(), min_distance=75, impl=impl)
    with torch.inference_mode():
        inferring = far_attention(q.clone(), k.clone(), min_distance=75, impl=impl)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        casting = far_attention(q, k, min_distance=75, impl=impl)
    assert not learning.far_mass.requires_grad
    for sums in (learning, inferring, casting):
        assert torch.equal(sums.far_mass, expected)
    # the result is an ordinary tensor
    assert (casting.far_mass + 1).sum() > 0


def test_blockwise_memory_is_far_from_the_map(run_python):
    program = (
        "import resource, torch; from longattn_hf.attention import far_attention\n"
        "torch.set_num_threads(2)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "q, k = torch.ones(1, 3, 32768, 16), torch.ones(1, 1, 32768, 16)\n"
        "far_attention(q[:, :, :64], k[:, :, :64], min_distance=16, impl='blockwise'); before = peak()\n"
        "far_attention(q, k, min_distance=30000, impl='blockwise'); print(peak() - before)\n"
    )
    # a head's map has 4,096 MiB
    assert float(run_python(program).stdout) < 64
