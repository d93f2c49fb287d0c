import json
from pathlib import Path

import numpy as np
import pytest
import torch

from longattn_hf import FirstLayer, LongAttnScorer, far_attention
from longattn_hf.method import get_convention
from longattn_hf.scoring import released
from longattn_hf.scoring.map_scores import map_scores
from tests.support.models import SMOLLM2, needs_smollm2
from tests.support.tiny import build_tokenizer


@pytest.mark.parametrize("convention", ["reference_code", "reference_code_causal"])
def test_the_reference_codes_padding_counts_and_makes_its_attention_causal(tiny_llama, convention):
    text, tokens = "The far tokens matter.", 40
    scorer = LongAttnScorer(str(tiny_llama), convention=convention, window_tokens=tokens, per_head=True)
    scored = scorer({"text": [text]})
    tokenizer = build_tokenizer()
    ids = tokenizer("<s> " + text)["input_ids"]
    padding = [tokenizer.eos_token_id] * (tokens - len(ids))
    assert 10 < len(ids) < 30
    layer = FirstLayer.from_pretrained(str(tiny_llama), dtype="float16", rope_theta=2.5e6)
    q, k, scale = layer.query_key(torch.tensor([ids + padding]))
    for head in range(4):
        rows = np.exp((q[0, head].double() @ k[0, head // 2].double().T * scale).numpy())
        rows[:, len(ids) :] = 0
        rows = np.tril(rows)
        far = np.tril((rows / rows.sum(1, keepdims=True)).astype(np.float16).astype(float), -tokens // 4)
        assert scored["dependency_strength_per_head"][0][head] == pytest.approx(far.sum() / tokens, rel=1e-3)
        variance = ((far - far[tokens // 4 :, : -tokens // 4].mean())[tokens // 4 :, : -tokens // 4] ** 2).mean()
        assert scored["distribution_uniformity_per_head"][0][head] == pytest.approx(-variance, rel=1e-3)


def test_a_token_to_pad_with_is_named_where_the_tokenizer_has_none(tiny_llama):
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a padding nor an EOS token to fill a window of 5 tokens"):
        released.read(torch.ones(1, 5, dtype=torch.int64), get_convention("reference_code"), tokenizer, 8)


@needs_smollm2
@pytest.mark.slow
def test_the_reference_code_gives_the_figures_of_the_released_code(smollm2):
    """`released_code.json`: made by that code, src/LongAttn.py at aa08199, under transformers 4.43.3 with sdpa."""
    cases = json.loads((Path(__file__).parent / "released_code.json").read_text())
    layer = FirstLayer.from_pretrained(SMOLLM2, dtype="float16", rope_theta=2.5e6)
    for case in cases:
        ids, reading = released.read(
            torch.tensor([case["ids"]]), get_convention("reference_code"), smollm2.load_tokenizer(), case["padded_to"]
        )
        q, k, scale = layer.query_key(ids)
        far = far_attention(q, k, min_distance=case["padded_to"] // 4, scale=scale, **reading)
        scores = map_scores(far, case["padded_to"], case["padded_to"] // 4)
        np.testing.assert_allclose(scores["dependency_strength"][0], case["proportions"], rtol=1e-3)
        np.testing.assert_allclose(scores["map_variance"][0], case["variances"], rtol=1e-3)
