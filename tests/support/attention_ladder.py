"""What every implementation of the far sums must pass: `class TestX(AttentionLadder): impl = "x"` runs it all."""

import math

import pytest
import torch
from torch import Tensor

from longattn_hf.attention import far_attention, far_rows


def draw(
    *, seqs=1, heads=1, key_heads=1, tokens=100, head_size=64, dtype=torch.float32, device="cpu", seed=0, gain=1.0
) -> tuple[Tensor, Tensor]:
    """Random q and k, drawn in their dtype; the logits' standard deviation is `gain` at the default scale."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(seqs, heads, tokens, head_size, generator=generator) * gain
    k = torch.randn(seqs, key_heads, tokens, head_size, generator=generator)
    return q.to(device, dtype), k.to(device, dtype)


def relative_tolerance(q: Tensor, k: Tensor, scale: float | None = None) -> float:
    """The relative error that rounding alone explains in a row's mass.

    A probability's relative error is its logit's absolute error: a dot product of D products, of which the largest
    possible is |q||k|, rounds like a random walk, some sqrt(D) half units; the log-sum-exp errs by as much again.
    Partial sums over blocks of keys add a few units.
    """
    epsilon = torch.finfo(torch.promote_types(q.dtype, torch.float32)).eps
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else abs(scale)
    largest_logit = scale * float(q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max())
    return epsilon * (16 + math.sqrt(q.shape[-1]) * largest_logit)


def rms_error(actual: Tensor, exact: Tensor) -> float:
    """Root mean square error in units of the root mean square."""
    return float(
        (actual.double().cpu() - exact).square().mean().sqrt() / exact.square().mean().sqrt().clamp_min(1e-300)
    )


def assert_exact(q: Tensor, k: Tensor, *, impl: str, **arguments) -> None:
    """Asserts that `impl` gives the float64 oracle's rows: each to rounding, all as well as plain softmax."""
    exact = far_rows(q.cpu().double(), k.cpu().double(), impl="reference", **arguments)
    plain = far_rows(q.cpu(), k.cpu(), impl="reference", **arguments)
    actual = far_rows(q, k, impl=impl, **arguments)
    rtol_of_mass = relative_tolerance(q, k, arguments.get("scale"))
    limits = torch.finfo(plain[0].dtype)
    for power, a, p, e in zip((1, 2), actual, plain, exact, strict=True):
        assert a.dtype == p.dtype and a.shape == e.shape
        # what underflows is lost: at most the least normal number a key
        atol = k.shape[2] * limits.tiny
        torch.testing.assert_close(a.double().cpu(), e, rtol=power * rtol_of_mass, atol=atol)
        # in float64 plain softmax is the oracle itself, so its error is not known
        assert p.dtype == torch.float64 or rms_error(a, e) <= 2 * rms_error(p, e) + 4 * limits.eps


def uniform_far_mass(positions: Tensor, min_distance: int) -> Tensor:
    """Row n of a uniform causal map has n + 1 equal entries, of which n - min_distance + 1 are far."""
    return (positions - min_distance + 1).clamp_min(0) / (positions + 1.0).double()


class AttentionLadder:
    """Hand case, closed forms, the oracle at odd shapes, invariances, and hostile logits, for one implementation."""

    impl: str
    device = "cpu"
    long = 32768
    #: more tokens than one block of rows, and than two of keys
    several_blocks = 1000
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

    @pytest.fixture(autouse=True)
    def _poison_uninitialised_memory(self):
        # torch.empty and its kin then give NaN: what is read before it is written shows
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True, warn_only=True)
        assert torch.empty(3).isnan().all()
        yield
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    def draw(self, **shape) -> tuple[Tensor, Tensor]:
        return draw(device=self.device, **shape)

    def sums(self, q, k, **arguments) -> tuple[Tensor, Tensor]:
        sums = far_attention(q, k, impl=self.impl, **arguments)
        assert sums.impl == self.impl
        assert sums.far_mass.dtype == sums.far_energy.dtype == torch.float64
        return sums.far_mass.cpu(), sums.far_energy.cpu()

    def test_the_hand_case(self):
        """T = 4, k = 2, one head of size 1, scale 1: the logit of query n and key i is q[n] * k[i].

        q = (5, 7, ln 2, ln 3) and k = (1, 0, 0, 1). Far are row 2: key 0; row 3: keys 0 and 1.
        Row 2: weights 2, 1, 1 -> far 2/4. Row 3: weights 3, 1, 1, 3 -> far 3/8 and 1/8.
        Far mass 1/2 + 1/2 = 1; far energy 1/4 + 9/64 + 1/64 = 13/32.
        """
        q = torch.tensor([5, 7, math.log(2), math.log(3)], device=self.device).reshape(1, 1, 4, 1)
        k = torch.tensor([1.0, 0, 0, 1], device=self.device).reshape(1, 1, 4, 1)
        mass, energy = self.sums(q, k, min_distance=2, scale=1.0)
        assert mass.item() == pytest.approx(1, rel=1e-6)
        assert energy.item() == pytest.approx(13 / 32, rel=1e-6)
        mass, energy = far_rows(q, k, min_distance=2, scale=1.0, impl=self.impl)
        torch.testing.assert_close(mass.cpu(), torch.tensor([[[0, 0, 1 / 2, 1 / 2]]]))
        torch.testing.assert_close(energy.cpu(), torch.tensor([[[0, 0, 1 / 4, 10 / 64]]]))

    def test_a_uniform_map_gives_the_closed_form(self):
        tokens, far = self.long, self.long // 4
        positions = torch.cat([torch.arange(far - 2, far + 3), torch.arange(0, tokens, tokens // 64) + 63])
        positions = positions.clamp(0, tokens - 1).sort().values
        q, k = self.draw(heads=2, tokens=tokens, head_size=16)
        rows = torch.zeros_like(q[:, :, : len(positions)])
        mass, energy = far_rows(rows, k, min_distance=far, positions=positions, impl=self.impl)
        expected = uniform_far_mass(positions, far)
        torch.testing.assert_close(mass.double().cpu(), expected.expand(1, 2, -1), rtol=1e-6, atol=0)
        torch.testing.assert_close(
            energy.double().cpu(), (expected / (positions + 1)).expand(1, 2, -1), rtol=2e-6, atol=0
        )

    @pytest.mark.parametrize("tokens", [1, 63, 100, None])
    def test_every_row_of_the_map_sums_to_one(self, tokens):
        tokens = tokens or self.several_blocks
        q, k = self.draw(heads=2, tokens=tokens)
        mass, energy = self.sums(q, k, min_distance=0)
        torch.testing.assert_close(mass, torch.full_like(mass, tokens), rtol=1e-6, atol=0)
        assert (energy <= mass).all()

    def test_nothing_is_far_where_the_distance_is_the_length(self):
        q, k = self.draw(tokens=100)
        for min_distance in (100, 101, 10**9):
            assert self.sums(q, k, min_distance=min_distance) == (0, 0)
        mass, energy = far_rows(q, k, min_distance=100, impl=self.impl)
        assert not mass.any() and not energy.any()
        # the last row's first key is the only far one
        mass, _ = far_rows(q, k, min_distance=99, impl=self.impl)
        assert mass[0, 0, 99] > 0 and not mass[0, 0, :99].any()

    def test_the_far_mass_falls_as_the_distance_grows(self):
        q, k = self.draw(tokens=200)
        masses = [self.sums(q, k, min_distance=distance)[0].item() for distance in (0, 1, 2, 50, 51, 150, 199, 200)]
        assert masses == sorted(masses, reverse=True) and len(set(masses)) == len(masses)

    # below, at and past block edges; one block; several
    @pytest.mark.parametrize("tokens", [1, 63, 100, None])
    # not a power of two; the two sizes models use
    @pytest.mark.parametrize("head_size", [60, 64, 128])
    def test_odd_shapes_agree_with_the_oracle(self, tokens, head_size):
        tokens = tokens or self.several_blocks
        q, k = self.draw(heads=2, key_heads=1, tokens=tokens, head_size=head_size, seed=tokens + head_size)
        for min_distance in {0, 1, tokens // 4, tokens}:
            assert_exact(q, k, impl=self.impl, min_distance=min_distance)

    @pytest.mark.parametrize(("heads", "key_heads"), [(3, 3), (9, 3), (8, 2), (8, 1)])
    def test_grouped_query_heads_agree_with_the_oracle(self, heads, key_heads):
        q, k = self.draw(seqs=2, heads=heads, key_heads=key_heads, tokens=150, seed=heads)
        assert_exact(q, k, impl=self.impl, min_distance=37)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
    def test_every_dtype_agrees_with_the_oracle(self, dtype):
        if dtype not in self.dtypes:
            pytest.skip(f"{self.impl} declares no {dtype}")
        q, k = self.draw(heads=2, tokens=300, dtype=dtype, gain=3.0)
        assert_exact(q, k, impl=self.impl, min_distance=75)
        assert_exact(q, k, impl=self.impl, min_distance=75, scale=0.3)

    def test_memory_layout_does_not_matter(self):
        q, k = self.draw(seqs=2, heads=4, key_heads=2, tokens=130)
        expected = self.sums(q, k, min_distance=32)
        # as a projection gives them: tokens before heads; and every second element of a larger buffer
        tokens_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k)]
        strided = [torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0] for x in (q, k)]
        for layout in (tokens_first, strided):
            assert not layout[0].is_contiguous()
            for actual, wanted in zip(self.sums(*layout, min_distance=32), expected, strict=True):
                torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=0)

    def test_inputs_are_left_alone_and_a_second_run_gives_the_same_bits(self):
        q, k = self.draw(heads=3, tokens=300)
        before = q.clone(), k.clone()
        first = self.sums(q, k, min_distance=75)
        assert all(torch.equal(a, b) for a, b in zip(first, self.sums(q, k, min_distance=75), strict=True))
        assert torch.equal(q, before[0]) and torch.equal(k, before[1])

    def test_a_sequence_does_not_feel_its_neighbours_in_the_batch(self):
        q, k = self.draw(seqs=3, heads=2, tokens=200)
        together = self.sums(q, k, min_distance=50)
        for b in range(3):
            alone = self.sums(q[b : b + 1], k[b : b + 1], min_distance=50)
            assert all(torch.equal(a[0], t[b]) for a, t in zip(alone, together, strict=True))

    def test_padding_counts_nothing_even_where_it_is_nan(self):
        lengths = torch.tensor([200, 1, 0, 77, 131])
        q, k = self.draw(seqs=5, heads=4, key_heads=2, tokens=200)
        for b, length in enumerate(lengths):
            q[b, :, length:] = k[b, :, length:] = torch.nan
        padded = self.sums(q, k, min_distance=50, lengths=lengths)
        rows = far_rows(q, k, min_distance=50, lengths=lengths, impl=self.impl)
        for b, length in enumerate(lengths.tolist()):
            assert not rows[0][b, :, length:].any() and not rows[1][b, :, length:].any()
            if length == 0:
                assert not padded[0][b].any() and not padded[1][b].any()
                continue
            alone = self.sums(q[b : b + 1, :, :length], k[b : b + 1, :, :length], min_distance=50)
            for a, p in zip(alone, padded, strict=True):
                torch.testing.assert_close(p[b], a[0], rtol=1e-6, atol=0)

    def test_chosen_rows_are_those_rows_of_the_whole(self):
        tokens, far = self.several_blocks, self.several_blocks // 4
        q, k = self.draw(seqs=2, heads=4, key_heads=2, tokens=tokens)
        whole = far_rows(q, k, min_distance=far, impl=self.impl)
        generator = torch.Generator().manual_seed(0)
        some = torch.randperm(tokens, generator=generator)[: tokens // 8].sort().values
        for positions in (
            some,
            torch.tensor([tokens - 1]),
            torch.tensor([0]),
            torch.tensor([3, 3, tokens // 2]),
            torch.arange(far, tokens),
        ):
            part = far_rows(q[:, :, positions], k, min_distance=far, positions=positions, impl=self.impl)
            assert_exact(q[:, :, positions], k, min_distance=far, positions=positions, impl=self.impl)
            for p, w in zip(part, whole, strict=True):
                torch.testing.assert_close(p, w[:, :, positions], rtol=5e-6, atol=0)

    def test_no_rows_give_no_sums(self):
        q, k = self.draw(tokens=10)
        mass, energy = far_rows(q[:, :, :0], k, min_distance=2, positions=torch.arange(0), impl=self.impl)
        assert mass.shape == energy.shape == (1, 1, 0)

    def test_rows_add_up_to_the_sums(self):
        q, k = self.draw(heads=2, tokens=300)
        rows = far_rows(q, k, min_distance=75, impl=self.impl)
        for row, total in zip(rows, self.sums(q, k, min_distance=75), strict=True):
            torch.testing.assert_close(row.double().sum(-1).cpu(), total, rtol=1e-6, atol=0)

    def test_a_constant_on_all_logits_of_a_row_changes_nothing(self):
        q, k = self.draw(tokens=200, head_size=64)
        q[..., -1], k[..., -1] = 0, 1
        shifted = q.clone()
        # every key's last component is 1, so this one is a constant on the row's logits
        shifted[..., -1] = torch.linspace(-800, 800, 200)
        for a, b in zip(
            far_rows(q, k, min_distance=50, impl=self.impl),
            far_rows(shifted, k, min_distance=50, impl=self.impl),
            strict=True,
        ):
            # a logit of 100 in float32 is uncertain by 1e-5
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-30)

    @pytest.mark.parametrize(
        "case", ["rising", "falling", "spike", "sink", "alternating", "huge", "cancelling", "tiny"]
    )
    def test_logits_of_any_range_agree_with_the_oracle(self, case):
        """Logits are q's first component times k's, but for noise; float32 exp spans only -103 to 88."""
        tokens = self.several_blocks
        q, k = self.draw(heads=2, tokens=tokens, head_size=64, seed=7, gain=0.5)
        ramp = torch.linspace(0, 1, tokens)
        q[..., 0], k[..., 0] = {
            # the running maximum moves at each key
            "rising": (40 * torch.ones(tokens), 60 * ramp),
            # the first keys outweigh all later ones beyond float32's range
            "falling": (40 * torch.ones(tokens), -60 * ramp),
            # one key in the far region takes everything from its row on
            "spike": (50 * torch.ones(tokens), 90.0 * (torch.arange(tokens) == tokens // 2)),
            "sink": (50 * torch.ones(tokens), 90.0 * (torch.arange(tokens) == 0)),
            # half of the rows love what the others hate, in one block
            "alternating": (80 * (-1.0) ** torch.arange(tokens), 50 * (ramp - 0.5)),
            "huge": (1e3 * ramp, 1e3 * torch.sin(50 * ramp)),
            # norms say 2,000, logits say 0
            "cancelling": (100 * torch.ones(tokens), 160 * torch.zeros(tokens)),
            # the best key is near, the far ones underflow or nearly so
            "tiny": (torch.full((tokens,), 80.0), 10 * (torch.arange(tokens) % 100 == 99) * ramp),
        }[case]
        if case == "cancelling":
            k[..., 1], q[..., 1] = 160, 0
        assert_exact(q, k, impl=self.impl, min_distance=tokens // 4)
        assert_exact(q, k, impl=self.impl, min_distance=0)

    def test_what_is_not_finite_shows(self):
        q, k = self.draw(tokens=100)
        k[0, 0, 30] = torch.nan
        mass, _ = far_rows(q, k, min_distance=25, impl=self.impl)
        assert mass[..., 30:].isnan().all()
