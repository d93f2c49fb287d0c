"""What reading attention's far sums costs, beside running attention and beside materialising its map.

One command on a machine with torch, transformers and pydantic, and triton where there is a GPU; it does without
`datasets`:

    python -m recipes.benchmarks.attention_cost     # every shape, length and method that fits the device and --seconds
    python -m recipes.benchmarks.attention_cost --shapes llama-3.1-8b --lengths 32768 --methods "fused" "sdpa flash"

All methods get the same q and k; each is compared with the float64 oracle and then timed, in rounds that go through
all of them in turn. One JSON file under recipes/results/ holds the table; a plot beside it the growth with length.
"""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from longattn_hf.attention import far_attention
from longattn_hf.model.device import pick_device, pick_dtype
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from recipes.benchmarks.attention_methods import (
    METHODS,
    Method,
    Problem,
    available,
    check,
    exp_rate,
    make_method,
    matmul_rate,
)
from recipes.benchmarks.environment import RESULTS, allocated_bytes, device_name, free_bytes, read_environment


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A first attention layer: heads, head size, and the sizes of what comes before it."""

    heads: int
    key_heads: int
    head_size: int
    hidden: int
    vocabulary: int
    # GPU hours (H800) that the paper's Table 5 reports for scoring 36 billion tokens with this layer
    paper_hours: float | None = None


SHAPES = {
    "smollm2-135m": Shape(heads=9, key_heads=3, head_size=64, hidden=576, vocabulary=49152),
    "llama-3.1-8b": Shape(heads=32, key_heads=8, head_size=128, hidden=4096, vocabulary=128256, paper_hours=50),
    "llama-3.1-70b": Shape(heads=64, key_heads=8, head_size=128, hidden=8192, vocabulary=128256, paper_hours=100),
}
PAPER_TOKENS = 36e9
# relative errors that rounding explains: of 16-bit probabilities; of a log-sum-exp, some units of 15; of the streams
TOLERANCE = {"materialised": 3e-2, "sdpa": 3e-2, "flash-attn": 3e-2, "log-sum-exp": 1e-3}
STREAM_TOLERANCE = 1e-4
# an estimate's distance from the truth, in standard errors
ESTIMATE_TOLERANCE = 4


@settings
class AttentionCostConfig:
    """What to measure. What is None follows from the device.

    Attributes:
        device: As torch names it; a GPU if None and there is one.
        dtype: Of queries and keys; bfloat16 on a GPU, float32 on a CPU.
        shapes: The layers to measure.
        lengths: Tokens.
        methods: The methods to measure; all that the device has if None.
        rounds: How often each is timed.
        seconds: Leave out a call that is expected to take longer.
        end_to_end: Layers to score windows with, from ids to scores.
        window_tokens: The length of those windows.
        windows: How many of those.
        out: The JSON file to write.
    """

    device: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    shapes: Several[Literal[*SHAPES]] | None = None
    lengths: Several[int] | None = None
    methods: Several[Literal[*METHODS]] | None = None
    rounds: int = 5
    seconds: float = 60
    end_to_end: Several[Literal[*SHAPES]] | None = None
    window_tokens: int = 32768
    windows: int | None = None
    out: LocalPath | None = None

    def __post_init__(self) -> None:
        device = pick_device(self.device)
        cuda = device.type == "cuda"
        by_device = {
            "device": str(device),
            "dtype": "bfloat16" if cuda else "float32",
            "shapes": tuple(SHAPES) if cuda else ("smollm2-135m",),
            "lengths": (8192, 32768, 131072, 524288) if cuda else (8192, 32768),
            "methods": tuple(available(device)),
            "end_to_end": ("llama-3.1-8b", "llama-3.1-70b") if cuda else ("smollm2-135m",),
            "windows": 32 if cuda else 2,
            "out": RESULTS / f"scoring-{device_name(device).lower().replace(' ', '-')}.json",
        }
        for name, value in by_device.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


@dataclass(kw_only=True)
class Timer:
    """Times calls on a device, and remembers what they took.

    Attributes:
        config: The settings.
        device: Where everything runs.
        dtype: Of q and k.
        last: For each shape and method the last length and its seconds, to foresee those of the next length.
    """

    config: AttentionCostConfig
    device: torch.device
    dtype: torch.dtype
    last: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Times one call, with the device's queue empty before and after."""
        synchronize = torch.cuda.synchronize if self.device.type == "cuda" else (lambda: None)
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        return time.perf_counter() - start

    def least_seconds(self, run: Callable[[], Any]) -> float:
        """The shortest of fifteen calls: a rate of the device is what it reaches undisturbed."""
        return min(self.seconds(run) for _ in range(15))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark and writes its results."""
    with refusing("attention_cost"):
        run(read_command_line(AttentionCostConfig, arguments, description=__doc__))


def run(config: AttentionCostConfig) -> None:
    """Measures shape by shape and length by length; the file is there, so far as it goes, after each.

    Raises:
        ValueError: A method gives wrong results.
    """
    torch.manual_seed(0)
    device = torch.device(config.device)
    timer = Timer(config=config, device=device, dtype=pick_dtype(config.dtype, device))
    rates = {
        "matmul_flops_per_s": matmul_rate(timer.device, timer.dtype, timer.least_seconds),
        "exp2_per_s": exp_rate(timer.device, timer.least_seconds),
    }
    report = {
        "environment": read_environment(timer.device, timer.dtype, rounds=config.rounds),
        "rates": rates,
        "methods": [],
        "end_to_end": [],
    }
    print(json.dumps(report["environment"] | rates, indent=1))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    for shape in config.shapes:
        for tokens in config.lengths:
            report["methods"] += measure(timer, shape, tokens, rates)
            config.out.write_text(json.dumps(report, indent=1) + "\n")
    for shape in config.end_to_end:
        report["end_to_end"].append(end_to_end(timer, shape))
        print(report["end_to_end"][-1])
    config.out.write_text(json.dumps(report, indent=1) + "\n")
    plot_growth(report, config.out.with_suffix(".png"))


def measure(timer: Timer, shape: str, tokens: int, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Checks the methods on one shape and length, then times those that passed in interleaved rounds."""
    sizes = SHAPES[shape]
    # logits with a standard deviation of 2: peaked maps, as a trained first layer's are
    q = 2 * torch.randn(1, sizes.heads, tokens, sizes.head_size, device=timer.device)
    k = torch.randn(1, sizes.key_heads, tokens, sizes.head_size, device=timer.device)
    problem = Problem(q=q.to(timer.dtype), k=k.to(timer.dtype), min_distance=tokens // 4)
    del q, k
    rows = {name: {"shape": shape, "tokens": tokens, "method": name} for name in timer.config.methods}
    methods = {}
    for name, row in rows.items():
        method = prepare(timer, shape, problem, row)
        if method is not None:
            methods[name] = method
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(timer.config.rounds):
        for name, method in methods.items():
            # a slow method gets fewer rounds, but never fewer than two
            if len(times[name]) < 2 or sum(times[name]) < timer.config.seconds:
                times[name].append(timer.seconds(method.run) / method.share)
    least = floor_seconds(problem, rates, overlap=timer.device.type == "cuda")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        rows[name] |= {"median_s": median, "min_s": min(seconds), "max_s": max(seconds), "rounds": len(seconds)}
        rows[name] |= {"times_floor": median / least}
        timer.last[shape, name] = tokens, median
    print_table(shape, tokens, least, list(rows.values()))
    return list(rows.values())


def prepare(timer: Timer, shape: str, problem: Problem, row: dict[str, Any]) -> Method | None:
    """Builds and checks one method; where that cannot be, `row` says why and None is returned."""
    name = row["method"]
    last_tokens, last_seconds = timer.last.get((shape, name), (problem.tokens, 0.0))
    expected, need = last_seconds * (problem.tokens / last_tokens) ** 2, bytes_needed(name, problem)
    # a single head stands for all where a head's map is large
    heads = problem.q.shape[1] if timer.device.type == "cuda" else 1
    if name == "materialised":
        expected *= heads / problem.q.shape[1]
    if expected > timer.config.seconds:
        row["left_out"] = f"would take about {expected:.0f} s a call"
        return None
    if need > free_bytes(timer.device):
        row["left_out"] = f"would need about {need / 2**30:.0f} GiB"
        return None
    try:
        method = make_method(name, problem, heads=heads)
        row["extra_bytes"] = extra_bytes(timer.device, method.run)
        row["error"] = check(method, problem)
    except (RuntimeError, NotImplementedError) as error:
        # PyTorch's backends say so where they do not serve a shape or a device
        row["left_out"] = str(error).splitlines()[0]
        return None
    if method.share < 1:
        row["share_of_heads_timed"] = method.share
    limit = next((limit for start, limit in TOLERANCE.items() if name.startswith(start)), STREAM_TOLERANCE)
    limit = ESTIMATE_TOLERANCE if method.kind == "estimate" else limit
    if not row["error"] <= limit:
        raise ValueError(
            f"{name} is wrong at {shape}, {problem.tokens} tokens: error {row['error']:.1e} > {limit:.0e}"
        )
    return method


def bytes_needed(name: str, problem: Problem) -> float:
    """A rough guess at a method's peak memory, the oracle's for its check included."""
    linear = 4 * problem.q.numel() * problem.q.element_size() + 48 * 8 * problem.tokens * 24
    # two copies of a head's map in its dtype or float32, and the mask
    return linear + problem.tokens**2 * 10 if name == "materialised" else linear


def extra_bytes(device: torch.device, run: Callable[[], Any]) -> int:
    """Peak memory during a call beyond what was held before it; on a CPU as sampled every 2 ms."""
    before = allocated_bytes(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(device) - before
    peak, done = before, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, allocated_bytes(device))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        run()
    finally:
        done.set()
        sampler.join()
    return peak - before


def floor_seconds(problem: Problem, rates: dict[str, float], *, overlap: bool) -> float:
    """The least time that the measured rates allow: a product and an exponential for each pair that rows see.

    Rows without a far key need neither. On a GPU the two run on different units, so the slower one counts; on a CPU
    they share the cores.
    """
    tokens, far = problem.tokens, problem.min_distance
    pairs = problem.q.shape[1] * (tokens * (tokens + 1) - far * (far + 1)) / 2
    product = 2 * problem.q.shape[-1] * pairs / rates["matmul_flops_per_s"]
    exponentials = pairs / rates["exp2_per_s"]
    return max(product, exponentials) if overlap else product + exponentials


def print_table(shape: str, tokens: int, least: float, rows: list[dict[str, Any]]) -> None:
    """Prints one shape and length; times beside the fastest attention forward and beside the materialised way."""
    forwards = [r["median_s"] for r in rows if r["method"].startswith(("sdpa", "flash-attn")) and "median_s" in r]
    forward = min(forwards, default=float("nan"))
    whole = next((r.get("median_s") for r in rows if r["method"] == "materialised"), None) or float("nan")
    print(f"\n{shape}, {tokens} tokens; floor {least:.4g} s")
    head = f"{'method':20}{'median s':>10}{'min':>10}{'max':>10}{'/forward':>9}{'speed-up':>9}{'/floor':>8}{'MiB':>9}"
    print(f"{head}  error")
    for row in rows:
        if "left_out" in row:
            print(f"{row['method']:20}  left out: {row['left_out']}")
            continue
        median = row["median_s"]
        print(
            f"{row['method']:20}{median:10.4g}{row['min_s']:10.4g}{row['max_s']:10.4g}{median / forward:9.2f}"
            f"{whole / median:9.1f}{row['times_floor']:8.1f}{row['extra_bytes'] / 2**20:9.0f}  {row['error']:.1e}"
        )


def end_to_end(timer: Timer, shape: str) -> dict[str, Any]:
    """Scores windows from ids on the host to scores on the host with a layer of random weights, through `FirstLayer`.

    One pinned copy in and one small copy out a window, both queued; the host waits once, at the end.
    """
    from longattn_hf.model.first_layer import FirstLayer

    config, sizes, cuda = timer.config, SHAPES[shape], timer.device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        save_random_layer(Path(folder), sizes, timer.dtype, config.window_tokens)
        layer = FirstLayer.from_pretrained(folder, dtype=config.dtype, device=timer.device)
    ids = torch.randint(sizes.vocabulary, (config.windows, 1, config.window_tokens))
    ids = ids.pin_memory() if cuda else ids

    def statistics_of(q: Tensor, k: Tensor, scale: float) -> Tensor:
        sums = far_attention(q, k, min_distance=config.window_tokens // 4, scale=scale)
        return torch.stack([sums.far_mass, sums.far_energy])

    def score_all() -> Tensor:
        windows = [statistics_of(*layer.query_key(x.to(timer.device, non_blocking=True))) for x in ids]
        return torch.stack(windows).cpu()

    q, k, scale = layer.query_key(ids[0])
    # the first call compiles the kernel
    statistics_of(q, k, scale)
    whole, alone = [], []
    for _ in range(config.rounds):
        whole.append(timer.seconds(score_all) / config.windows)
        alone.append(timer.seconds(lambda: [statistics_of(q, k, scale) for _ in ids]) / config.windows)
    window, read = statistics.median(whole), statistics.median(alone)
    return {
        "shape": shape,
        "tokens": config.window_tokens,
        "windows": config.windows,
        "window_s": window,
        "statistics_s": read,
        "end_to_end_over_statistics": window / read,
        "share_not_statistics": 1 - read / window,
        "tokens_per_s": config.window_tokens / window,
        "hours_for_36e9_tokens": PAPER_TOKENS / config.window_tokens * window / 3600,
        "paper_hours_for_36e9_tokens": sizes.paper_hours,
    }


def save_random_layer(folder: Path, sizes: Shape, dtype: torch.dtype, positions: int) -> None:
    """Writes the tensors that a Llama's first queries and keys depend on, random, as a checkpoint of one layer."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=4 * sizes.hidden,
        num_hidden_layers=1,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_heads,
        head_dim=sizes.head_size,
        max_position_embeddings=positions,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    shapes = {
        "embed_tokens": (sizes.vocabulary, sizes.hidden),
        "layers.0.input_layernorm": (sizes.hidden,),
        "layers.0.self_attn.q_proj": (sizes.heads * sizes.head_size, sizes.hidden),
        "layers.0.self_attn.k_proj": (sizes.key_heads * sizes.head_size, sizes.hidden),
    }
    weights = {f"model.{name}.weight": torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    for tensor in weights.values():
        tensor.normal_(std=sizes.hidden**-0.5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def plot_growth(report: dict[str, Any], path: Path) -> None:
    """Draws each method's time against the length, a panel a shape, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no matplotlib, so no plot")
        return
    timed = [row for row in report["methods"] if "median_s" in row]
    shapes = list(dict.fromkeys(row["shape"] for row in timed))
    if not shapes:
        return
    figure, panels = plt.subplots(1, len(shapes), figsize=(5 * len(shapes), 4), squeeze=False, layout="constrained")
    for panel, shape in zip(panels[0], shapes, strict=True):
        for at, name in enumerate(METHODS):
            points = [
                (row["tokens"], row["median_s"]) for row in timed if (row["shape"], row["method"]) == (shape, name)
            ]
            if points:
                panel.loglog(*zip(*points, strict=True), "os^v"[at % 4] + "-", color=f"C{at}", label=name)
        panel.set(title=shape, xlabel="tokens", ylabel="seconds")
        panel.legend(fontsize=7)
    figure.suptitle(f"{report['environment']['device']}, {report['environment']['dtype']}")
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
