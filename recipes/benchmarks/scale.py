"""What many shards cost: memory and CPU time of each process of a build that selects again among a million windows.

    python -m recipes.benchmarks.scale                                # 10,000 shards, 1,000,000 windows, 1 and 8 ranks
    python -m recipes.benchmarks.scale --windows 20000 --shards 200   # in a minute

A corpus of texts of two short windows each is built once with a tiny random model, which takes most of the time. Then
the finished build is selected from anew, as one process and as several, each a fresh interpreter under torchrun. A
process reports its peak memory, and its CPU time: until all windows were found scored (tokenizer, model, sources), and
from then on (selection and writing, which this is about).
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from longattn_hf.files import write_json
from longattn_hf.model.tokenizer import load_tokenizer
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.processes import join_processes
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.run import build
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from longattn_hf.pipeline.source_config import SourceConfig
from recipes.benchmarks.environment import RESULTS, SMALL_MODEL, device_name, installed

_WINDOW_TOKENS = 16
_FILES = 8


@settings
class ScaleConfig:
    """How large, and on how many processes.

    Attributes:
        windows: How many windows.
        shards: How many shards they are in.
        ranks: Numbers of processes to compare, the first being the one that the others are measured by.
        folder: Where corpus and build go; a temporary folder if None.
        tokenizer: Whose tokens the windows are cut of.
        out: The JSON file to write.
        rank_of: Run as one process of a build in this folder, with `fraction`, and write down its cost.
        fraction: What that process selects.
    """

    windows: int = 1_000_000
    shards: int = 10_000
    ranks: Several[int] = (1, 8)
    folder: LocalPath | None = None
    tokenizer: str = SMALL_MODEL
    out: LocalPath = RESULTS / "scale.json"
    rank_of: LocalPath | None = None
    fraction: float = 0.5


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark, or one process of it."""
    with refusing("scale"):
        config = read_command_line(ScaleConfig, arguments, description=__doc__)
        if config.rank_of:
            run_rank(config)
            return
        with tempfile.TemporaryDirectory() as temporary:
            report = measure(config, config.folder or Path(temporary))
    write_json(config.out, report)
    print_table(report)


def measure(config: ScaleConfig, folder: Path) -> dict[str, Any]:
    """Makes the corpus and its build, and selects from it as each number of processes."""
    if not (folder / "corpus").exists():
        write_corpus(config, folder / "corpus")
        write_model(config, folder / "model")
    start = time.monotonic()
    launch(folder, config, 1, fraction=0.5)
    report: dict[str, Any] = {
        "device": device_name(torch.device("cpu")),
        "versions": {name: installed(name) for name in ("datasets", "pyarrow", "torch", "transformers")},
        "windows": config.windows,
        "shards": config.shards,
        "seconds_to_build": round(time.monotonic() - start),
        "runs": [],
    }
    for number, ranks in enumerate(config.ranks):
        # another share each time, so that each run selects and writes anew
        processes = launch(folder, config, ranks, fraction=0.25 - number / 100)
        report["runs"].append({"ranks": ranks, "processes": processes})
    return report


def write_corpus(config: ScaleConfig, folder: Path) -> None:
    """Writes documents of two windows each, in a few files."""
    folder.mkdir(parents=True)
    words = np.array("the far tokens of a long document matter more than you think".split())
    rng = np.random.default_rng(0)
    for file, rows in enumerate(np.array_split(np.arange(config.windows // 2), _FILES)):
        # more tokens than one window and no more than two: Algorithm 1 takes the front and the back
        lines = words[rng.integers(len(words), size=(len(rows), _WINDOW_TOKENS + 2))]
        Dataset.from_dict({"text": [" ".join(line) for line in lines]}).to_parquet(folder / f"{file:02d}.parquet")


def write_model(config: ScaleConfig, folder: Path) -> None:
    """Writes a random model that costs next to nothing to run."""
    tokenizer = load_tokenizer(config.tokenizer)
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)


def launch(folder: Path, config: ScaleConfig, ranks: int, *, fraction: float) -> list[dict[str, Any]]:
    """Runs a build on so many processes; returns what each says of itself."""
    words = ["--rank_of", str(folder), "--fraction", str(fraction)]
    words += ["--windows", str(config.windows), "--shards", str(config.shards)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    if subprocess.run([*command, "-m", "recipes.benchmarks.scale", *words], env=environment).returncode:
        raise ValueError(f"A build on {ranks} processes failed.")
    return [json.loads((folder / f"cost-{rank}.json").read_text()) for rank in range(ranks)]


def run_rank(config: ScaleConfig) -> None:
    """Builds as one of several processes, and writes down what it cost."""
    assert config.rank_of is not None, "asked for by the caller"
    folder, process = config.rank_of, join_processes()
    # windows of sixteen tokens are not worth a second thread
    torch.set_num_threads(1)
    before, marks = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [time.process_time()]

    def wait() -> None:
        process.wait()
        marks.append(time.process_time())

    source = SourceConfig(category="text", path="parquet", data_files=str(folder / "corpus" / "*.parquet"))
    settings_of_build = BuildConfig(
        name="scale",
        model=str(folder / "model"),
        sources=(source,),
        window_tokens=_WINDOW_TOKENS,
        documents_per_shard=-(-config.windows // (2 * config.shards)),
        fraction=config.fraction,
        # the fastest for windows as short as these
        impl="reference",
        output_dir=str(folder / "out"),
    )
    result = build(settings_of_build, engine=replace(process, wait=wait))
    marks.append(time.process_time())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    costs = {
        "rank": process.index,
        "scored_windows": result.scored_windows,
        # processes meet after the claim, the windows, their list, and the scores
        "cpu_seconds_until_scored": round(marks[4] - marks[0], 1),
        "cpu_seconds_of_selection": round(marks[-1] - marks[4], 1),
        "megabytes_after_imports": round(before / 1024),
        "megabytes_at_peak": round(peak / 1024),
    }
    write_json(folder / f"cost-{process.index}.json", costs)


def print_table(report: dict[str, Any]) -> None:
    """Prints a line for each process."""
    print(f"{report['windows']:,} windows in {report['shards']:,} shards; built in {report['seconds_to_build']} s")
    for run in report["runs"]:
        for one in run["processes"]:
            print(
                f"rank {one['rank']} of {run['ranks']}: at most {one['megabytes_at_peak']} MB, "
                f"{one['megabytes_after_imports']} of them after its imports; {one['cpu_seconds_until_scored']} s of "
                f"CPU time until scored, {one['cpu_seconds_of_selection']} s from then on"
            )
        total = sum(one["cpu_seconds_of_selection"] for one in run["processes"])
        print(f"all {run['ranks']}: {total:.1f} s of CPU time for the selection")


if __name__ == "__main__":
    main()
