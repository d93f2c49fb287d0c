import pytest
import torch

from longattn_hf.model.device import pick_device, pick_dtype


@pytest.mark.parametrize(
    ("device", "rank", "local_rank", "expected"),
    [(None, None, None, "cuda:0"), (None, None, "3", "cuda:1"), (None, 5, "0", "cuda:1"), ("cpu", 1, "1", "cpu")],
)
def test_a_process_uses_the_gpu_of_its_number_unless_a_device_is_asked_for(
    monkeypatch, device, rank, local_rank, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert pick_device(device, rank=rank) == torch.device(expected)


def test_without_a_gpu_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(rank=3) == torch.device("cpu")


def test_a_dtype_is_float32_on_a_cpu_and_bfloat16_elsewhere_unless_named():
    assert pick_dtype(None, torch.device("cpu")) is torch.float32
    assert pick_dtype(None, torch.device("cuda:1")) is torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) is pick_dtype(torch.float16, torch.device("cpu"))
    with pytest.raises(ValueError, match="dtype='int8' must be one of float32, bfloat16, float16"):
        pick_dtype("int8", torch.device("cpu"))
