import pytest
import torch
from transformers import AutoModelForCausalLM

from longattn_hf.first_layer import FirstLayer


def attention_map(layer, input_ids):
    q, k, scale = layer.query_key(input_ids)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return (q.double() @ k.double().mT * scale).masked_fill(future, -torch.inf).softmax(-1)


def test_the_map_of_a_llama_is_its_own_eager_one(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager")
    ids = torch.randint(300, (2, 50), generator=torch.manual_seed(0))
    with torch.no_grad():
        theirs = model(ids, output_attentions=True).attentions[0]
    ours = attention_map(FirstLayer.from_pretrained(str(tiny_llama)), ids)
    assert torch.allclose(ours.float(), theirs, rtol=1e-5, atol=1e-7)


def test_an_id_outside_the_vocabulary_is_named(tiny_llama):
    layer = FirstLayer.from_pretrained(str(tiny_llama))
    with pytest.raises(ValueError, match="Token id 300 is outside the vocabulary of 300 ids"):
        layer.query_key(torch.tensor([[1, 300]]))
