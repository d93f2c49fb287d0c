"""What a build spends its time and memory on, stage by stage, and whether windowing keeps up with scoring.

    python -m recipes.benchmarks.pipeline_cost [--documents FILE.parquet] [--gpu_tokens_per_s N]
    python -m recipes.benchmarks.pipeline_cost --documents book.parquet code.parquet --folder cost --certify

A build of so many windows is run in a fresh interpreter, which writes down each second what its stage has taken: wall
time, CPU time, and peak memory, begun anew with each stage. A run that was killed goes on in its folder, and the runs
add up. With `certify` the same windows are built a second time, with a certified cut. Then windowing is timed in CPU
seconds of one thread, which other work on the machine hardly touches, and scoring beside its statistics alone. One
JSON file under recipes/results/ holds the figures.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers starts

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset

from longattn_hf import LongAttnScorer, WindowDocuments, far_attention
from longattn_hf.columns import CATEGORY, ID, KEPT, ROW_FRACTION
from longattn_hf.files import write_json
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.demo_corpus import demo_documents
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.run import build
from longattn_hf.pipeline.settings import LocalPath, Texts, read_command_line, settings
from longattn_hf.pipeline.source_config import SourceConfig
from recipes.benchmarks.environment import RESULTS, SMALL_MODEL, device_name, read_environment
from recipes.benchmarks.stage_meter import STAGES, Metered, StageMeter

# documents that are windowed round after round
_TIMED = 50


@settings
class PipelineCostConfig:
    """Which documents to window and score.

    Attributes:
        documents: Parquet files with a column `text`, each a category; the embedded demo's documents if none.
        model: As for `LongAttnScorer`.
        window_tokens: The windows' length.
        windows: How many windows the build has at least, as far as the documents reach.
        threads: Of the build.
        fraction: Of each category's windows that the build keeps.
        certify: Build a second time with a certified cut, and compare.
        folder: Where corpus and build go, and where a killed run goes on; a temporary folder if None.
        rounds: Of windowing, and windows to score; the first of each warms caches, so at least two.
        gpu_tokens_per_s: What a GPU scores, to say how many cores feed it.
        out: The JSON file to write; recipes/results/pipeline-DEVICE.json if None.
        build_in: Run as the build in this folder, and write down its cost.
    """

    documents: Texts = ()
    model: str = SMALL_MODEL
    window_tokens: int = 8192
    windows: int = 1000
    threads: int = 2
    fraction: float = 0.5
    certify: bool = False
    folder: LocalPath | None = None
    rounds: int = 5
    gpu_tokens_per_s: float | None = None
    out: LocalPath | None = None
    build_in: LocalPath | None = None

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise ValueError(f"rounds={self.rounds} leaves nothing to time after the first; give at least 2.")
        if self.windows < 2:
            raise ValueError(f"windows={self.windows} is no corpus; give at least 2.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures a build stage by stage, windowing on one core, and the parts of scoring one window after another."""
    with refusing("pipeline_cost"):
        config = read_command_line(PipelineCostConfig, arguments, description=__doc__)
        if config.build_in:
            run_build(config, config.build_in)
            return
        rows = read_documents(config)
        texts = [row["text"] for row in rows[:_TIMED]]
        report: dict[str, Any] = {
            "environment": read_environment(torch.device("cpu"), torch.float32, rounds=config.rounds),
            "window_tokens": config.window_tokens,
        }
        with tempfile.TemporaryDirectory() as temporary:
            folder = config.folder or Path(temporary)
            report["build"] = measure_build(rows, replace(config, certify=False), folder)
            if config.certify:
                certified = folder / "certified"
                report["certified"] = measure_build(rows, config, certified)
                report["certified_and_exact"] = compare_builds(folder, certified)
        report |= {**time_windowing(texts, config), **time_scoring(texts, config)}
    if config.gpu_tokens_per_s:
        report["cores_for_one_gpu"] = config.gpu_tokens_per_s / report["windowing_tokens_per_core_s"]
    name = device_name(torch.device("cpu")).lower().replace(" ", "-")
    path = config.out or RESULTS / f"pipeline-{name}.json"
    write_json(path, report)
    print(json.dumps(report, indent=1))
    print(f"written to {path}")


def read_documents(config: PipelineCostConfig) -> list[dict[str, Any]]:
    """Reads all documents, with their categories.

    Raises:
        OSError: A file cannot be read.
    """
    if not config.documents:
        return list(demo_documents())
    rows = []
    for file in config.documents:
        # names the reason where the file cannot be read, which a bare path does not
        texts = pq.ParquetFile(pa.OSFile(file)).read(["text"])["text"].to_pylist()
        rows += [{"category": Path(file).stem, "text": text} for text in texts]
    return rows


def measure_build(rows: Sequence[Mapping[str, Any]], config: PipelineCostConfig, folder: Path) -> dict[str, Any]:
    """Builds a dataset of the first documents that have so many windows; returns what each stage took."""
    corpus = folder / "corpus"
    if not corpus.exists():
        write_corpus(rows, config, corpus)
    names = ("model", "window_tokens", "fraction", "certify")
    words = [
        "--build_in",
        str(folder),
        *(word for name in names for word in (f"--{name}", str(getattr(config, name)))),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(config.threads)}
    if subprocess.run([sys.executable, "-m", __spec__.name, *words], env=environment).returncode:
        raise ValueError("The build failed.")
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("cost-*.json"))]
    facts = {name: _sum_up([run[name] for run in runs if name in run]) for name in STAGES}
    # each run starts up, and the first as any other
    facts["start-up"] = runs[0]["start-up"]
    for kind in ("wall", "cpu"):
        total = sum(one[f"{kind}_s"] for one in facts.values())
        for one in facts.values():
            one[f"{kind}_share"] = round(one[f"{kind}_s"] / total, 4)
    report = json.loads(BuildFolder(folder / "out").report.read_text())["categories"].values()
    counted = {name: sum(one[name] for one in report) for name in ("documents", "windows", "kept_windows")}
    asked = {"fraction": config.fraction, "certify": config.certify, "threads": config.threads}
    return counted | asked | {"runs": len(runs), "stages": facts}


def compare_builds(exact: Path, certified: Path) -> dict[str, Any]:
    """What a certified build kept of what an exact one of the same windows did, and the share of the rows it read.

    Raises:
        ValueError: The builds are of other windows.
    """
    tables = [
        pq.read_table(BuildFolder(folder / "out").published_scores).sort_by(
            [(CATEGORY, "ascending"), (ID, "ascending")]
        )
        for folder in (exact, certified)
    ]
    whole, sampled = (table[KEPT].to_numpy() for table in tables)
    if not tables[0].select([CATEGORY, ID]).equals(tables[1].select([CATEGORY, ID])):
        raise ValueError("The two builds are not of the same windows.")
    read = tables[1][ROW_FRACTION].value_counts().to_pylist()
    return {
        "kept_by_both": int((whole & sampled).sum()),
        "kept_by_exact": int(whole.sum()),
        "kept_by_certified": int(sampled.sum()),
        "windows_by_share_of_rows_read": {
            str(one["values"]): one["counts"] for one in sorted(read, key=itemgetter("values"))
        },
    }


def write_corpus(rows: Sequence[Mapping[str, Any]], config: PipelineCostConfig, folder: Path) -> None:
    """Writes the first documents that have so many windows, those of all categories in turn; a file a category."""
    cut = WindowDocuments(tokenizer=config.model, window_tokens=config.window_tokens)
    by_category: dict[str, list[str]] = {}
    for row in rows:
        by_category.setdefault(row["category"], []).append(row["text"])
    kept: dict[str, list[str]] = {name: [] for name in by_category}
    count, turn = 0, 0
    while count < config.windows and turn < max(map(len, by_category.values())):
        for name, texts in by_category.items():
            if count < config.windows and turn < len(texts):
                kept[name].append(texts[turn])
                count += len(cut({"text": [texts[turn]]})["id"])
        turn += 1
    # under another name until all of it is there
    parts = folder.with_name("corpus-part")
    for name, texts in kept.items():
        if texts:
            parts.mkdir(parents=True, exist_ok=True)
            Dataset.from_dict({"text": texts}).to_parquet(parts / f"{name}.parquet")
    parts.rename(folder)


def _sum_up(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        key: (max if key == "peak_mb" else sum)([run[key] for run in runs]) for key in ("wall_s", "cpu_s", "peak_mb")
    }


def run_build(config: PipelineCostConfig, folder: Path) -> None:
    """Builds, and writes down what each stage took."""
    files = sorted((folder / "corpus").glob("*.parquet"))
    settings_of_build = BuildConfig(
        name="pipeline-cost",
        model=config.model,
        sources=tuple(SourceConfig(category=file.stem, path="parquet", data_files=str(file)) for file in files),
        window_tokens=config.window_tokens,
        fraction=config.fraction,
        certify=config.certify,
        output_dir=str(folder / "out"),
    )
    with StageMeter(folder / f"cost-{len(list(folder.glob('cost-*.json'))):03d}.json") as meter:
        build(settings_of_build, engine=Metered(meter=meter))


def time_windowing(texts: list[str], config: PipelineCostConfig) -> dict[str, float]:
    """Cuts all documents, round after round; returns tokens read per CPU second of one thread."""
    cut = WindowDocuments(tokenizer=config.model, window_tokens=config.window_tokens)
    tokens = sum(len(ids) for ids in load_tokenizer_once(cut.model_ref)(texts)["input_ids"])
    seconds = []
    for _ in range(config.rounds):
        start = time.thread_time()
        windows = cut({"text": texts})
        seconds.append(time.thread_time() - start)
    return {
        "documents": len(texts),
        "document_tokens": tokens,
        "windows": len(windows["id"]),
        "windowing_tokens_per_core_s": tokens / statistics.median(seconds),
    }


def time_scoring(texts: list[str], config: PipelineCostConfig) -> dict[str, float]:
    """Scores windows whole, and their statistics alone, in turn; returns the share that is not statistics."""
    cut = WindowDocuments(tokenizer=config.model, window_tokens=config.window_tokens)
    windows = cut({"text": texts[:4]})["input_ids"][: config.rounds]
    if len(windows) < 2:
        raise ValueError(
            f"The first four documents hold {len(windows)} windows of {config.window_tokens} tokens, and two are "
            "needed; lower window_tokens or give longer documents."
        )
    scorer = LongAttnScorer(config.model)
    layer = scorer.load_layer()
    whole, alone = [], []
    for ids in windows:
        start = time.perf_counter()
        scorer({"input_ids": [ids]})
        whole.append(time.perf_counter() - start)
        q, k, scale = layer.query_key(torch.tensor(ids[None], dtype=torch.int64))
        start = time.perf_counter()
        far_attention(q, k, min_distance=config.window_tokens // 4, scale=scale)
        alone.append(time.perf_counter() - start)
    # the first round warms caches
    whole_s, alone_s = statistics.median(whole[1:]), statistics.median(alone[1:])
    return {
        "scoring_tokens_per_s": config.window_tokens / whole_s,
        "share_of_scoring_not_statistics": 1 - alone_s / whole_s,
    }


if __name__ == "__main__":
    main()
