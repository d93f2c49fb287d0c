"""What the fused kernel's loops issue, read from its machine code, and a prediction of its time; no GPU is needed.

    python -m recipes.benchmarks.kernel_cost --architectures 80 90 100

Triton compiles the kernel for each architecture with the tile that `far_rows` takes there, bfloat16 and Llama-3.1-8B's
heads; the disassembler that Triton brings shows the loop of each span of keys. A step of a loop takes at least the
longest of three times: to issue its instructions, to compute its exponentials, and to multiply its tile on the tensor
cores. Their sum over a window's steps, on all multiprocessors, is a PREDICTION, and an optimistic one: that all three
overlap perfectly, that no step waits for memory, and that clocks stay at their peak. Nothing here is a measurement.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longattn_hf.files import write_json
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from recipes.benchmarks.environment import RESULTS, installed

# Llama-3.1-8B's first layer
HEADS, KEY_HEADS, HEAD_SIZE = 32, 8, 128
SPANS = ("reference", "far", "border", "near", "diagonal")


@dataclass(frozen=True, kw_only=True)
class Chip:
    """What a multiprocessor does in a cycle, and how many there are.

    Attributes:
        name: The device.
        multiprocessors: As sold.
        tensor_flops: Dense bfloat16 operations, two a multiply-add, per multiprocessor and cycle.
        peak_flops: The same per second and device, as its data sheet has it; with the former it gives the clock.
    """

    name: str
    multiprocessors: int
    tensor_flops: int
    peak_flops: float

    @property
    def clock(self) -> float:
        """Cycles a second at which the data sheet's peak is reached."""
        return self.peak_flops / (self.multiprocessors * self.tensor_flops)


CHIPS = {
    # NVIDIA A100 Tensor Core GPU Architecture (whitepaper, 2020): 108 SMs, 1,024 dense FP16 FMA per SM and clock;
    # data sheet: 312 TFLOPS dense bfloat16
    80: Chip(name="A100 SXM", multiprocessors=108, tensor_flops=2048, peak_flops=312e12),
    # NVIDIA H100 Tensor Core GPU Architecture (whitepaper, 2022): 132 SMs, twice A100's rate per SM and clock;
    # data sheet: 1,979 TFLOPS with sparsity, half of that dense
    90: Chip(name="H100 SXM", multiprocessors=132, tensor_flops=4096, peak_flops=989.5e12),
    # NVIDIA Blackwell Architecture Technical Brief (2024): twice Hopper's rate per SM and clock; HGX B200 data sheet:
    # 2.25 PFLOPS dense bfloat16 a GPU; 148 SMs, as the device reports
    100: Chip(name="B200", multiprocessors=148, tensor_flops=8192, peak_flops=2250e12),
}
# CUDA C++ Programming Guide, arithmetic instructions, throughput of native ones: base-2 exponentials per cycle and
# multiprocessor, the same for capabilities 8.0, 9.0 and 10.0
EXPONENTIALS = 16
# the same guide, multiprocessor level: each of four schedulers issues one instruction of a warp per cycle
SCHEDULERS = 4
KINDS = {
    "maxima": r"FMNMX",
    "additions": r"FADD",
    "multiplications": r"FMUL",
    "multiply-adds": r"FFMA",
    "exponentials": r"MUFU\.EX2",
    "conversions": r"F2F|F2I|I2F|I2FP",
    "memory": r"LD|ST[GSL]|UTMA|UBLK|SYNCS|MEMBAR|FENCE|DEPBAR",
    "tensor cores": r"\w*MMA|WARPGROUP|UTC",
}


@settings
class KernelCostConfig:
    """For what to compile.

    Attributes:
        architectures: Compute capabilities without the point: 80, 90, 100.
        window_tokens: Of the window whose time is predicted; keys are far from a quarter of it on.
        out: The JSON file to write.
    """

    architectures: Several[int] = tuple(CHIPS)
    window_tokens: int = 32768
    out: LocalPath = RESULTS / "kernel-cost.json"

    def __post_init__(self) -> None:
        if self.window_tokens < 4:
            raise ValueError(f"window_tokens={self.window_tokens} has no quarter; give at least 4.")
        for architecture in self.architectures:
            if architecture not in CHIPS:
                raise ValueError(f"architectures={architecture} is not described here; there are {[*CHIPS]}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles, reads and prints."""
    with refusing("kernel_cost"):
        config = read_command_line(KernelCostConfig, arguments, description=__doc__)
        report = {
            "prediction": "read from machine code and data sheets; nothing was run on a GPU",
            "versions": {name: installed(name) for name in ("torch", "triton")}
            | {name: tool.version for name, tool in find_tools().items()},
            "shape": {"heads": HEADS, "key_heads": KEY_HEADS, "head_size": HEAD_SIZE, "dtype": "bfloat16"},
            "window_tokens": config.window_tokens,
            "architectures": [],
        }
        for architecture in config.architectures:
            report["architectures"].append(cost := kernel_cost(architecture, config.window_tokens))
            print_cost(cost)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.out, report)


def kernel_cost(architecture: int, window_tokens: int) -> dict[str, Any]:
    """What the kernel's loops cost on one architecture, and the window's time that follows.

    Raises:
        ValueError: The kernel is interpreted, or its loops are not those of its spans.
    """
    chip, (compiled, tile, described) = CHIPS[architecture], compile_kernel(architecture)
    code, resources = disassemble(compiled.asm["cubin"])
    loops = product_loops(code)
    if len(loops) != len(SPANS):
        raise ValueError(f"sm_{architecture}: {len(loops)} loops hold a matrix product, not {len(SPANS)}: {SPANS}.")
    warps, elements = tile.warps, tile.rows * tile.keys
    spans = {}
    # the loops lie in the order of the kernel's source
    for span, loop in zip(SPANS, loops, strict=True):
        kinds = Counter(kind_of(operation) for operation in loop)
        bounds = {
            "issue": len(loop) * warps / SCHEDULERS,
            "exponentials": kinds["exponentials"] * warps * 32 / EXPONENTIALS,
            "tensor_cores": 2 * elements * HEAD_SIZE / chip.tensor_flops,
        }
        spans[span] = {
            "instructions": len(loop),
            "per_element": len(loop) / (elements / (32 * warps)),
            "per_element_by_kind": {
                kind: kinds[kind] / (elements / (32 * warps)) for kind in (*KINDS, "other") if kinds[kind]
            },
            "cycles_a_step": bounds,
        }
    steps = window_steps(tile.rows, tile.keys, window_tokens)
    cycles = sum(steps[span] * max(spans[span]["cycles_a_step"].values()) for span in SPANS)
    return {
        "architecture": f"sm_{architecture}",
        "chip": chip.name,
        "clock_hz": chip.clock,
        "tile": {"rows": tile.rows, "keys": tile.keys, "warps": warps, "stages": tile.stages},
        "tensor_descriptor": described,
        "registers": int(re.search(r"REG:(\d+)", resources)[1]),
        "stack_bytes": int(re.search(r"STACK:(\d+)", resources)[1]),
        "shared_bytes": compiled.metadata.shared,
        "spans": spans,
        "steps_a_window": steps,
        "predicted_window_s": cycles / (chip.multiprocessors * chip.clock),
    }


def compile_kernel(architecture: int) -> tuple[Any, Any, bool]:
    """The kernel as `far_rows` would launch it there on contiguous bfloat16 keys, its tile, and if by descriptors."""
    from triton import compile as compile_source
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from longattn_hf.attention import fused

    if fused.INTERPRETED:
        raise ValueError("TRITON_INTERPRET is set, so that nothing is compiled; unset it.")
    tile = fused.pick_tile(architecture // 10, torch.bfloat16, HEAD_SIZE)
    keys = torch.empty(1, KEY_HEADS, 16, HEAD_SIZE, dtype=torch.bfloat16)
    described = fused.can_describe(architecture // 10, keys)
    d0, d1 = fused.split_head(HEAD_SIZE)
    constants = {
        "lengths": None, "stride_qd": 1, "stride_kd": 1, "num_key_heads": KEY_HEADS, "group": HEADS // KEY_HEADS,
        "head_dim": HEAD_SIZE, "d0": d0, "d1": d1, "block_rows": tile.rows, "block_keys": tile.keys,
        "parts": tile.parts, "precision": "tf32", "described": described,
    }  # fmt: skip
    types = {"q": "*bf16", "k": "*bf16", "positions": "*i64", "mass": "*fp32", "energy": "*fp32", "log2_scale": "fp32"}
    names = fused._far_rows_kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    # pointers and strides are multiples of 16, as those of whole tensors are
    aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or name.startswith("stride")]
    source = ASTSource(
        fused._far_rows_kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i in aligned if signature[names[i]] != "constexpr"},
    )
    target = GPUTarget("cuda", architecture, 32)
    return compile_source(source, target=target, options=tile.options), tile, described


def find_tools() -> dict[str, Any]:
    """NVIDIA's assembler and disassemblers by name, each with `path` and `version`, as Triton's wheel brings them.

    Raises:
        ValueError: Triton or one of them is missing.
    """
    try:
        from triton.knobs import nvidia

        return {name: getattr(nvidia, name) for name in ("ptxas", "nvdisasm", "cuobjdump")}
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"The kernel's code needs Triton's wheel for Linux and its tools. {error}.") from error


def disassemble(binary: bytes) -> tuple[str, str]:
    """A binary's instructions, and its use of registers and stack, as NVIDIA's tools print them."""
    tools = find_tools()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        commands = ([tools["nvdisasm"].path, "-c", path], [tools["cuobjdump"].path, "-res-usage", path])
        code, resources = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)
    return code, resources


def product_loops(code: str) -> list[list[str]]:
    """The operations of each innermost loop that holds a matrix product, in the order of the code."""
    operations: list[str] = []
    labels, spans = {}, []
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(operations)
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]+)(.*);", line):
            operations.append(instruction[1])
            target = re.search(r"`\((\.L_x_\d+)\)", instruction[2])
            if instruction[1].startswith("BRA") and target and target[1] in labels:
                spans.append((labels[target[1]], len(operations)))
    # loops nest; a jump from behind a loop into its middle returns from a wait that is kept out of the way
    spans = [(a, b) for a, b in spans if not any(c < a < d < b for c, d in spans)]
    spans = [(a, b) for a, b in spans if any(re.match(r"\w*MMA", operation) for operation in operations[a:b])]
    inner = [(a, b) for a, b in spans if not any((a, b) != (c, d) and a <= c and d <= b for c, d in spans)]
    return [operations[a:b] for a, b in sorted(inner)]


def kind_of(operation: str) -> str:
    """The kind that an operation is counted as."""
    return next((kind for kind, names in KINDS.items() if re.match(names, operation)), "other")


def window_steps(rows: int, keys: int, tokens: int) -> dict[str, int]:
    """How many steps of each span a window takes over all its programs, as the kernel draws the borders."""
    steps = dict.fromkeys(SPANS, 0)
    group, min_distance = HEADS // KEY_HEADS, tokens // 4
    for first in range(0, tokens * group, rows):
        n_first, n_last = first // group, min(first + rows, tokens * group) // group - 1
        if n_last < min_distance:
            continue
        diagonal = n_first // keys
        border = min(max(n_first + 1 - min_distance, 0) // keys, diagonal)
        near = min(-(-(n_last + 1 - min_distance) // keys), diagonal)
        last = -(-(n_last + 1) // keys) - diagonal
        counts = (last, border, near - border, diagonal - near, last)
        for span, count in zip(SPANS, counts, strict=True):
            steps[span] += KEY_HEADS * count
    return steps


def print_cost(cost: dict[str, Any]) -> None:
    """Prints one architecture's loops."""
    print(
        f"\n{cost['architecture']} ({cost['chip']}), tile {cost['tile']['rows']} x {cost['tile']['keys']}, "
        f"{cost['tile']['warps']} warps: {cost['registers']} registers, {cost['stack_bytes']} bytes of stack, "
        f"{cost['shared_bytes']} of shared memory"
    )
    print(f"{'loop':10}{'instr.':>7}{'/elem.':>7}{'issue':>7}{'exp2':>7}{'tensor':>7}  cycles; instructions by kind")
    for span, loop in cost["spans"].items():
        cycles = "".join(f"{value:7.0f}" for value in loop["cycles_a_step"].values())
        kinds = ", ".join(f"{kind} {value:.2f}" for kind, value in loop["per_element_by_kind"].items())
        print(f"{span:10}{loop['instructions']:7}{loop['per_element']:7.2f}{cycles}  {kinds}")
    print(f"predicted, not measured: {1000 * cost['predicted_window_s']:.2f} ms a window")


if __name__ == "__main__":
    main()
