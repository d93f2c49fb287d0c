"""The attention benchmark's yardsticks compute what they are timed for."""

import pytest
import torch

from longattn_hf.attention import far_rows
from recipes.benchmarks.attention_methods import Problem, log_sum_exp


# whole blocks of k rows, as the benchmark has them; a last block of one row, of all but one; k more than half
@pytest.mark.parametrize(("tokens", "min_distance"), [(128, 32), (97, 32), (127, 32), (100, 70)])
def test_flash_passes_over_near_and_far_keys_give_the_far_sums(tokens, min_distance):
    generator = torch.Generator().manual_seed(tokens)
    q = 2 * torch.randn(1, 4, tokens, 16, generator=generator)
    k = torch.randn(1, 2, tokens, 16, generator=generator)
    method = log_sum_exp(Problem(q=q, k=k, min_distance=min_distance))
    assert torch.equal(method.positions, torch.arange(min_distance, tokens))
    exact = far_rows(q.double(), k.double(), min_distance=min_distance, impl="reference")
    # a log-sum-exp of some units errs by some 2^-22
    for actual, rows in zip(method.run(), exact, strict=True):
        torch.testing.assert_close(actual.double(), rows[:, :, min_distance:], rtol=1e-5, atol=0)


def test_the_flash_passes_visit_one_and_a_half_causal_triangles(monkeypatch):
    pairs = []
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def counted(q, k, *rest, **options):
        pairs.append(q.shape[0] * q.shape[2] * (q.shape[2] + 1) / 2)
        assert q.shape == k.shape
        return flash(q, k, *rest, **options)

    tokens = 256
    q = torch.randn(1, 1, tokens, 16)
    method = log_sum_exp(Problem(q=q, k=q, min_distance=tokens // 4))
    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", counted)
    method.run()
    assert sum(pairs) / (tokens * (tokens + 1) / 2) == pytest.approx(1.5, rel=0.01)
