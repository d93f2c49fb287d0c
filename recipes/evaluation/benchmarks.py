"""The public benchmarks that the LongAttn paper reports, run by lm-evaluation-harness: an optional extra, `[eval]`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from recipes.intervals import Estimate, with_standard_error


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark of the harness.

    Attributes:
        task: Its name there.
        settings: Further arguments of `lm_eval.simple_evaluate`.
        runs_code: Whether it runs code that the model wrote.
    """

    task: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs_code: bool = False


BENCHMARKS = {
    "ruler": Benchmark(task="ruler"),
    "longbench": Benchmark(task="longbench"),
    "humaneval": Benchmark(task="humaneval", runs_code=True),
    "openbookqa": Benchmark(task="openbookqa"),
    "hellaswag": Benchmark(task="hellaswag"),
    "mmlu": Benchmark(task="mmlu", settings={"num_fewshot": 5}),
}


def run_benchmarks(
    names: Sequence[str],
    model: str,
    *,
    revision: str | None = None,
    lengths: Sequence[int],
    limit: int | None = None,
    run_model_code: bool = False,
) -> dict[str, dict[str, Estimate]]:
    """Runs benchmarks on a model.

    Args:
        names: Of `BENCHMARKS`, or any task of the harness.
        model: A Hub id or a local directory.
        revision: The model's branch, tag or commit on the Hub.
        lengths: RULER's context lengths in tokens; the longest is also the most that any prompt may have.
        limit: Only so many examples of each task.
        run_model_code: Allow benchmarks that run, on this machine, code that the model wrote.

    Returns:
        By task and metric the estimate, with an interval where the harness gives a standard error.

    Raises:
        ValueError: The harness is not installed, or a benchmark runs code and that is not allowed.
    """
    benchmarks = {name: BENCHMARKS.get(name, Benchmark(task=name)) for name in names}
    running = [name for name, benchmark in benchmarks.items() if benchmark.runs_code]
    if running and not run_model_code:
        raise ValueError(
            f"{', '.join(running)} runs code that the model wrote. In a sandbox, allow it with --run_model_code true."
        )
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ValueError(
            f"lm-evaluation-harness is not installed: pip install 'longattn_hf[eval]' ({error})."
        ) from error
    if running:
        # the harness's pass@k refuses to run without it
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = HFLM(pretrained=model, revision=revision or "main", max_length=max(lengths), dtype="auto", device=device)
    results: dict[str, dict[str, Estimate]] = {}
    for benchmark in benchmarks.values():
        outcome = lm_eval.simple_evaluate(
            model=network,
            tasks=[benchmark.task],
            limit=limit,
            metadata={"pretrained": model, "max_seq_lengths": list(lengths)},
            confirm_run_unsafe_code=benchmark.runs_code,
            log_samples=False,
            **benchmark.settings,
        )
        results |= {task: _with_intervals(metrics) for task, metrics in outcome["results"].items()}
    return results


def _with_intervals(metrics: Mapping[str, Any]) -> dict[str, Estimate]:
    """Turns the harness's `metric,filter` and `metric_stderr,filter` into values with intervals."""
    estimates = {}
    for name, value in metrics.items():
        # RULER marks a length that was not run by -1
        if "_stderr," in name or not isinstance(value, int | float) or value == -1 or "," not in name:
            continue
        metric, _, filtered = name.partition(",")
        error = metrics.get(f"{metric}_stderr,{filtered}")
        has_error = isinstance(error, int | float)
        estimate = with_standard_error(value, error) if has_error else Estimate(value=value)
        estimates[metric if filtered == "none" else name] = estimate
    return estimates
