"""The shapes in which the Triton kernel cuts its work: fixed for a device, so that it always gives the same bits."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from packaging.version import Version

from longattn_hf.attention.api import LEAST_TRITON

if Version(triton.__version__) < LEAST_TRITON:
    raise ImportError(
        f"The fused kernel needs Triton {LEAST_TRITON} or later, and here is {triton.__version__}: install a later "
        "torch, which brings one, or use 'blockwise'."
    )
# Triton reads this variable when it is imported and kernels are decorated
INTERPRETED = triton.knobs.runtime.interpret


@dataclass(frozen=True, kw_only=True)
class Tile:
    """What one program works on at a time; it changes the order of the sums, so nothing picks it at run time.

    Attributes:
        rows: Query rows (positions times grouped heads), a power of two of at least 16.
        keys: Keys per step, a power of two of at least 16.
        warps: Warps of 32 threads per program.
        stages: Key tiles in flight, this step's included.
        parts: Sums a row keeps of each kind, a power of two up to `keys`: as many as the tensor cores' layout has
            neighbouring keys in other threads, so that a step's sums need no exchange between threads.
        registers: Most registers per thread, which decides how many programs share a multiprocessor; None lets the
            compiler choose.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    parts: int = 8
    registers: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What Triton compiles and launches the kernel with."""
        return {
            "num_warps": self.warps,
            "num_stages": self.stages,
            "maxnreg": self.registers,
            # as it always was: the default differs between releases of Triton
            "enable_fp_fusion": True,
        }


def split_head(head_dim: int) -> tuple[int, int]:
    """Splits a head into two column blocks of powers of two (the second may be 0), as tensor cores need them.

    96 gives 64 and 32 rather than one block of 128, a quarter of it zeros.
    """
    whole = max(16, triton.next_power_of_2(head_dim))
    first = whole // 2
    rest = max(16, triton.next_power_of_2(head_dim - first))
    return (first, rest) if head_dim > 16 and first + rest < whole else (whole, 0)


def pick_tile(generation: int, dtype: torch.dtype, head_dim: int) -> Tile:
    """The tile for devices of one generation, the first number of their compute capability, or for the interpreter.

    Two programs share a multiprocessor where registers and shared memory allow, so that one's exponentials overlap
    with the other's matrix product; each of the two alone takes about as long as the other.
    """
    if INTERPRETED:
        # the interpreter pays for operations, not for elements
        return Tile(rows=256, keys=128, warps=1, stages=1, parts=128)
    if dtype == torch.float32:
        # exact products run on the scalar units, whose operands fill the registers at any larger tile
        return Tile(rows=32, keys=32, warps=4, stages=1)
    if generation == 9:
        return Tile(rows=128, keys=128 if head_dim <= 128 else 64, warps=8, stages=2, registers=128)
    if generation == 10:
        # a thread holds a row of the product, whole only where there are as many threads as rows
        return Tile(rows=128, keys=64, warps=4, stages=2, registers=128)
    # fits the 99 KiB of shared memory that every device since Ampere has
    return Tile(rows=128, keys=64 if head_dim <= 128 else 32, warps=8, stages=2, parts=32, registers=128)


def can_describe(generation: int, k_BHTD: torch.Tensor) -> bool:
    """Whether a tensor descriptor can load the keys, which takes no addresses: whole heads, in steps of 16 bytes."""
    steps = [stride * k_BHTD.element_size() for stride in k_BHTD.stride()[:3]] + [k_BHTD.data_ptr()]
    whole = k_BHTD.stride(2) > 0 and k_BHTD.stride(3) == 1 and split_head(k_BHTD.shape[3])[1] == 0
    served = INTERPRETED or (generation in (9, 10) and k_BHTD.element_size() == 2)
    return served and whole and not any(step % 16 for step in steps)
