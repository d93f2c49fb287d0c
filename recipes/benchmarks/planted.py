r"""Does a score select? Scores windows with planted structure and controls, and says how well it tells them apart.

    python -m recipes.benchmarks.planted                                   # the embedded demo's documents, all scores
    python -m recipes.benchmarks.planted --scores longattn gzip echo --windows 40 --window-tokens 8192 \
        --documents book=books.parquet code=org/a-hub-dataset --model meta-llama/Llama-3.1-8B

planted_windows.py says what the windows are. A table is printed; a JSON file holds it with all settings, and
pictures beside it the areas under the curves and the scores' rank correlation on intact windows. `area` is the chance
that an intact window scores above a control of its category, `pairs` the share of pairs won; chance is 0.50 for both.
"""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset, load_dataset

from longattn_hf.files import as_pattern, write_json
from longattn_hf.model.device import pick_device
from longattn_hf.model.location import ModelRef
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from recipes.benchmarks.environment import RESULTS, SMALL_MODEL, read_environment
from recipes.benchmarks.planted_plots import plot_areas, plot_correlation
from recipes.benchmarks.planted_windows import INTACT, Document, Kind, kinds_for, plant, split_documents
from recipes.intervals import area_under_curve, pairs_won, rank_correlation
from recipes.scores import LLAMA_8B, SCORES, Model


@settings
class CorpusConfig:
    """The documents to cut windows out of, and the model that scores these.

    Attributes:
        documents: CATEGORY=SOURCE, one a category: a Parquet or JSON-lines file or a dataset on the Hub, with a column
            `text`; or `demo`, the embedded demo's documents.
        model: A Hub id, a local directory, a GGUF file, or `package:NAME/FILE`.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside `model`.
        window_tokens: The windows' length.
        windows: The most windows of a category.
    """

    documents: Several[str] = ("demo",)
    model: str = SMALL_MODEL
    revision: str | None = None
    gguf_file: str | None = None
    window_tokens: int = 4096
    windows: int

    @property
    def model_ref(self) -> ModelRef:
        """The model that scores."""
        return ModelRef(self.model, self.revision, self.gguf_file)


@settings
class PlantedConfig(CorpusConfig):
    """Which scores to test, on which windows and controls.

    Attributes:
        windows: The most intact windows of a category.
        dtype: The model's; None lets each score decide.
        scores: The scores to compare.
        kinds: The kinds of controls; all if None.
        seed: Of the windows and the controls.
        calibration_share: The share of the documents that is kept from the test.
        calibration: Use those documents instead of the test's.
        note: A sentence for the report, such as what the documents are.
        out: The JSON file to write.
    """

    windows: int = 16
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    scores: Several[Literal[*SCORES]] = tuple(SCORES)
    kinds: Several[str] | None = None
    seed: int = 0
    calibration_share: float = 0.5
    calibration: bool = False
    note: str | None = None
    out: LocalPath = RESULTS / "selection-demo.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    with refusing("planted"):
        config = read_command_line(PlantedConfig, arguments, description=__doc__)
        report = measure(plant_windows(config), config)
    write_json(config.out, report)
    plot_areas(report, config.out.with_suffix(".png"))
    plot_correlation(report, config.out.with_name(config.out.stem + "-correlation.png"))
    print_table(report)


def plant_windows(config: PlantedConfig) -> Dataset:
    """Makes intact windows and controls of the documents, for the test or for calibration."""
    documents = list(read_documents(config.documents))
    calibration, test = split_documents(documents, share=config.calibration_share, seed=config.seed)
    windows = plant(
        calibration if config.calibration else test,
        load_tokenizer_once(config.model_ref),
        window_tokens=config.window_tokens,
        per_category=config.windows,
        seed=config.seed,
        kinds=config.kinds,
    )
    return Dataset.from_list(list(windows))


def read_documents(sources: Iterable[str]) -> Iterable[Document]:
    """Yields the documents of all sources; `demo` is what installed packages bring."""
    for source in sources:
        category, _, path = source.partition("=")
        if source == "demo":
            from longattn_hf.pipeline.demo_corpus import demo_documents

            rows: Iterable[Mapping[str, Any]] = demo_documents()
        elif Path(path).suffix in (".parquet", ".json", ".jsonl"):
            builder = Path(path).suffix[1:].replace("jsonl", "json")
            rows = load_dataset(builder, data_files=as_pattern(path), split="train")
        elif path:
            rows = load_dataset(path, split="train", streaming=True).take(1000)
        else:
            raise ValueError(f"--documents {source}: give CATEGORY=FILE, CATEGORY=DATASET or demo.")
        for number, row in enumerate(rows):
            name = str(row.get("id") or f"{source}/{number}")
            yield Document(id=name, category=category if path else row["category"], text=row["text"])


def measure(windows: Dataset, config: PlantedConfig) -> dict[str, Any]:
    """Scores all windows and compares intact ones with controls."""
    columns, costs = score_windows(windows, config.scores, model_of(config, config.dtype), config.window_tokens)
    intact = np.array(windows["kind"]) == INTACT
    return {
        "environment": read_environment(pick_device(), torch.float32, rounds=1),
        "note": config.note,
        "model": Path(config.gguf_file or config.model).name,
        "window_tokens": config.window_tokens,
        "seed": config.seed,
        "documents": "calibration" if config.calibration else "test",
        "windows": len(windows),
        "costs": costs,
        "operations_of_the_papers_8b_layer": LLAMA_8B.first_map(config.window_tokens),
        "comparisons": list(compare(windows, columns, config.window_tokens)),
        "rank_correlation": {
            "columns": list(columns),
            "windows": int(intact.sum()),
            "spearman": rank_correlation(np.stack([values[intact] for values in columns.values()], axis=1)).tolist(),
        },
    }


def model_of(config: CorpusConfig, dtype: str | None, far_gain_calibration: str | None = None) -> Model:
    """The model of a configuration."""
    return Model(
        name=config.model,
        revision=config.revision,
        gguf_file=config.gguf_file,
        dtype=dtype,
        far_gain_calibration=far_gain_calibration,
    )


def score_windows(
    windows: Dataset, scores: Iterable[str], model: Model, window_tokens: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Scores windows by several scores; returns the columns that are to be compared, and what each score costs."""
    columns: dict[str, np.ndarray] = {}
    costs: dict[str, dict[str, Any]] = {}
    for name in scores:
        score = SCORES[name]
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
            "operations_per_window": score.operations(model, window_tokens),
        }
        print(f"{name}: {seconds:.3g} s a window", file=sys.stderr)
    return columns, costs


def compare(
    windows: Dataset,
    columns: Mapping[str, np.ndarray],
    window_tokens: int,
    available: Mapping[str, Kind] | None = None,
    bars: Mapping[str, float] | None = None,
) -> Iterable[dict[str, Any]]:
    """Yields the estimates of every score, category and kind, beside the kind's bar where it has one."""
    available = available or kinds_for(window_tokens)
    if bars is None:
        bars = {name: {"auc": 0.90, "pairs": 0.75}[kind.target] for name, kind in available.items() if kind.target}
    categories, kinds = np.array(windows["category"]), np.array(windows["kind"])
    sides, pairs = np.array(windows["side"]), np.array(windows["pair"])
    for category in sorted(set(categories)):
        for name, kind in available.items():
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
                    estimate = area_under_curve(values[list(whole.values())], values[controls])
                yield {
                    "score": column,
                    "category": category,
                    "kind": name,
                    "measure": "pairs" if kind.paired else "area",
                    "target": bars.get(name),
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "windows": estimate.count,
                }


def print_table(report: Mapping[str, Any]) -> None:
    """Prints a line a score and category, a column a kind."""
    rows = report["comparisons"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    print(f"{'score':24} {'category':22}" + "".join(f"{kind:>17}" for kind in kinds))
    for score in dict.fromkeys(row["score"] for row in rows):
        for category in dict.fromkeys(row["category"] for row in rows):
            cells = {r["kind"]: r for r in rows if r["score"] == score and r["category"] == category}
            texts = [_cell(cells[kind]) if kind in cells else "" for kind in kinds]
            print(f"{score:24} {category:22}" + "".join(f"{text:>17}" for text in texts))
    print(f"the paper's 8B first layer: {report['operations_of_the_papers_8b_layer']:.3g} operations a window")
    for name, cost in report["costs"].items():
        print(f"{name:24} {cost['seconds_per_window']:.3g} s, {cost['operations_per_window']:.3g} operations a window")


def _cell(row: Mapping[str, Any]) -> str:
    # one window alone has no interval
    return f"{row['value']:.2f}" + ("" if row["low"] is None else f" {row['low']:.2f}-{row['high']:.2f}")


if __name__ == "__main__":
    main()
