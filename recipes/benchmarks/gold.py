r"""Does a score predict what a language model gains from far context?

    python -m recipes.benchmarks.gold --windows 60 --minutes 60 --folder gold \
        --documents arxiv=arxiv.parquet book=book.parquet code=code.parquet

Measures windows of documents that nothing is fitted on (splits.py), for as long as `--minutes` says and from where the
last run stopped, the categories in turn. Then it scores all windows that are measured and writes, with 95% bootstrap
intervals: the rank correlation of every score with the gain, within category; how much of a window's gain is the
window's, which no score can go beyond; which tokens carry the gain; the costs; and a picture. gold_windows.py says
what the gain is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from longattn_hf.files import write_json
from longattn_hf.model.language_model import load_language_model
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from recipes.benchmarks.environment import RESULTS
from recipes.benchmarks.gold_report import (
    compare_layers,
    compare_with_gain,
    measure_reliability,
    plot_gold,
    share_gain,
)
from recipes.benchmarks.gold_windows import Stretches, at_stretches, choose_windows, measure_windows
from recipes.benchmarks.planted import CorpusConfig, model_of, read_documents, score_windows
from recipes.benchmarks.planted_windows import Cutter
from recipes.benchmarks.splits import held_out_documents
from recipes.scores import CHEAP_SCORES, SCORES


@settings
class GoldConfig(CorpusConfig):
    """Which windows to measure, how, and which scores to compare with them.

    Attributes:
        windows: The most windows of a category, each of a document of its own.
        dtype: The model's; None for float32 on a CPU and bfloat16 on a GPU.
        stretches: How many stretches of a window are measured.
        stretch_tokens: A stretch's length; an eighth of the window if None.
        near_tokens: How many tokens before a stretch are near to its first; likewise.
        minutes: How long to measure; 0 reads what is there.
        seed: Of the windows.
        folder: Where the measured windows are kept, one file each.
        scores: The scores to compare; none only measures.
        note: A sentence for the report, such as what the documents are.
        out: The JSON file to write, with a picture beside it.
    """

    windows: int = 60
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    stretches: int = 3
    stretch_tokens: int | None = None
    near_tokens: int | None = None
    minutes: float = 600
    seed: int = 0
    folder: LocalPath = Path("gold")
    scores: Several[Literal[*SCORES]] = CHEAP_SCORES
    note: str | None = None
    out: LocalPath = RESULTS / "gold.json"

    @property
    def where(self) -> Stretches:
        """The stretches of a window that are measured."""
        return Stretches(
            window_tokens=self.window_tokens,
            count=self.stretches,
            tokens=self.stretch_tokens,
            near_tokens=self.near_tokens,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures windows, then compares the scores with their gains."""
    with refusing("gold"):
        config = read_command_line(GoldConfig, arguments, description=__doc__)
        if config.minutes > 0:
            measure(config)
        if config.scores:
            report = compare(config)
            write_json(config.out, report)
            plot_gold(report, config.out.with_suffix(".png"))
            print_table(report)


def measure(config: GoldConfig) -> None:
    """Measures what is not measured yet."""
    stretches = config.where
    documents = held_out_documents(read_documents(config.documents))
    cutter = Cutter(
        tokenizer=load_tokenizer_once(config.model_ref), window_tokens=config.window_tokens, donors=documents
    )
    measured_with = {
        "model": Path(config.model).name if Path(config.model).exists() else config.model,
        "revision": config.revision,
        "gguf_file": config.gguf_file,
        "dtype": config.dtype,
        "window_tokens": config.window_tokens,
        "starts": stretches.starts,
        "stretch_tokens": stretches.length,
        "near_tokens": stretches.near,
        "seed": config.seed,
    }
    config.folder.mkdir(parents=True, exist_ok=True)
    measure_windows(
        choose_windows(documents, cutter, per_category=config.windows, seed=config.seed),
        load_language_model(config.model_ref, dtype=config.dtype),
        stretches,
        measured_with,
        config.folder,
        minutes=config.minutes,
    )


def compare(config: GoldConfig) -> dict[str, Any]:
    """Scores all windows that are measured at the stretches asked for, and compares with their gains.

    Raises:
        ValueError: Fewer than three windows of a category are measured there.
    """
    measured = [json.loads(path.read_text()) for path in sorted(config.folder.glob("*.json"))]
    windows = [window for window in (at_stretches(w, config.where.starts) for w in measured) if window]
    categories = np.array([window["category"] for window in windows])
    if not len(windows) or min(np.unique(categories, return_counts=True)[1]) < 3:
        raise ValueError(f"{config.folder} holds fewer than three windows of a category; measure more of them first.")
    tokenizer = load_tokenizer_once(config.model_ref)
    rows = [
        {"text": tokenizer.decode(w["ids"]), "input_ids": w["ids"], "category": w["category"], "id": w["name"]}
        for w in windows
    ]
    columns, costs = score_windows(
        Dataset.from_list(rows), config.scores, model_of(config, config.dtype), config.window_tokens
    )
    gains = np.array([np.mean(window["gains"], axis=1) for window in windows])
    return {
        "note": config.note,
        "settings": windows[0]["settings"],
        "windows": len(windows),
        "windows_by_category": {c: int((categories == c).sum()) for c in sorted(set(categories))},
        "gain": {
            c: {
                "median": float(np.median(gains.mean(axis=1)[categories == c])),
                "quartiles": np.quantile(gains.mean(axis=1)[categories == c], (0.25, 0.75)).tolist(),
            }
            for c in sorted(set(categories))
        },
        "reliability": measure_reliability(gains, categories),
        "measuring_cpu_seconds_per_window": float(np.mean([window["cpu_seconds"] for window in windows])),
        "costs": costs,
        "scores": compare_with_gain(gains.mean(axis=1), categories, columns),
        "layers": compare_layers(gains.mean(axis=1), categories, [w.get("far_attention") for w in windows]),
        "tokens": share_gain(windows),
    }


def print_table(report: dict[str, Any]) -> None:
    """Prints a line a score, then a line a class of tokens."""
    print(f"{report['windows']} windows; reliability of the gain {report['reliability']['of_the_mean']:.2f}")
    for row in report["scores"]:
        by_category = " ".join(f"{c} {value[0]:.2f}" for c, value in row["by_category"].items())
        print(f"{row['score']:24} {row['spearman']:5.2f} [{row['low']:.2f}, {row['high']:.2f}]  {by_category}")
    for row in report["tokens"]:
        print(
            f"{row['category']:12} {row['class']:28} {row['share_of_tokens']:4.0%} of the tokens, "
            f"{row['share_of_gain']:4.0%} of the gain"
        )


if __name__ == "__main__":
    main()
