import numpy as np
import pytest

from longattn_hf.method import uniform_dependency_strength


def test_uniform_attention_has_the_strength_of_its_map():
    # the mean over the rows n of (n-k)/n, at L = 32,768; the integral differs by less than 1/L
    for distance in (0, 1000, 8192, 32_768):
        rows = np.arange(distance + 1, 32_769)
        exact = ((rows - distance) / rows).sum() / 32_768
        assert uniform_dependency_strength(distance / 32_768) == pytest.approx(exact, abs=1 / 32_768)
    assert f"{uniform_dependency_strength(0.25):.4f}" == "0.4034"
    with pytest.raises(ValueError, match=r"ratio=1.5 must lie in \[0, 1\]"):
        uniform_dependency_strength(1.5)
