"""Which device and dtype a process computes with, and how a forked process may."""

import os

import torch

_FIRST_PROCESS = os.getpid()
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str | torch.device | None = None, *, rank: int | None = None) -> torch.device:
    """Returns the device asked for, or this process's GPU where there is one, else the CPU.

    Args:
        device: As torch names it; None leaves the choice.
        rank: The process's number, as `with_rank=True` gives it; LOCAL_RANK of the environment, or 0, if None.
    """
    if device is not None:
        return torch.device(device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = rank if rank is not None else int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", local % torch.cuda.device_count())


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Returns the dtype asked for; float32 on a CPU and bfloat16 elsewhere if None.

    Raises:
        ValueError: It is not float32, bfloat16 or float16.
    """
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(_DTYPES)}.")
    return chosen


def use_one_thread_after_fork() -> None:
    """Lets a forked process, as those of `Dataset.map(num_proc=...)`, compute: with one thread."""
    # OpenMP's threads do not outlive a fork: the next parallel section would wait for them for ever
    if os.getpid() != _FIRST_PROCESS and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
