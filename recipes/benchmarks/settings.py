"""What LongAttn's open choices change: each setting's ranking and kept half beside the paper's, on real windows.

    python -m recipes.benchmarks.settings                 # the embedded demo's documents, SmolLM2-135M's first layer

Of every document that is long enough one window is scored under each setting. `agreement` is the Spearman correlation
with the paper's long-distance score within a category, the mean over categories; `kept` the share of the windows kept
by the paper's setting (the upper half of each category) that the other keeps as well. The released code's attention is
compared with its causal reading in the same way. The dependency strength against
the minimum distance, a profile of how far attention reaches, is kept in the JSON file beside that of a uniform map.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from scipy.stats import spearmanr

from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH
from longattn_hf.files import write_json
from longattn_hf.method import uniform_dependency_strength
from longattn_hf.model.device import pick_device
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, read_command_line, settings
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.selection.standardisation import RAW_SCORES, long_distance_scores
from recipes.benchmarks.environment import RESULTS, device_name, installed
from recipes.benchmarks.planted import CorpusConfig, read_documents
from recipes.benchmarks.planted_windows import Cutter

DISTANCES = (32, 16, 8, 4, 2)


@settings
class ChoicesConfig(CorpusConfig):
    """On which windows to compare the choices.

    Attributes:
        out: The JSON file to write.
    """

    windows: int = 50
    out: LocalPath = RESULTS / "settings-demo.json"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way of scoring: the scorer's arguments, how its raw scores are combined, and what it is compared with."""

    scorer: dict[str, Any] = field(default_factory=dict)
    alpha: float = 0.5
    convention: str = "paper"
    beside: str = "paper"

    @property
    def key(self) -> str:
        """The same for choices with the same raw scores."""
        return json.dumps(self.scorer, sort_keys=True)


def choices_for(window_tokens: int) -> dict[str, Choice]:
    """Returns all choices by name, the paper's first."""
    distances = {f"k = L/{part}": Choice(scorer={"min_distance": window_tokens // part}) for part in DISTANCES}
    return {
        "paper": Choice(),
        "alpha = 0": Choice(alpha=0.0),
        "alpha = 1": Choice(alpha=1.0),
        **distances,
        "BOS before the window": Choice(scorer={"add_bos": True}),
        "bfloat16": Choice(scorer={"dtype": "bfloat16"}),
        "reference_code's variance and min-max": Choice(convention="reference_code"),
        "reference_code": Choice(
            scorer={"convention": "reference_code", "window_tokens": window_tokens}, convention="reference_code"
        ),
        "reference_code_causal, beside reference_code": Choice(
            scorer={"convention": "reference_code_causal", "window_tokens": window_tokens},
            convention="reference_code_causal",
            beside="reference_code",
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison from the command line."""
    with refusing("settings"):
        config = read_command_line(ChoicesConfig, arguments, description=__doc__)
        windows = cut_from_documents(config)
        choices = choices_for(config.window_tokens)
        raw = score_all(windows, choices, config)
    report = compare(choices, raw, windows, config.window_tokens)
    write_json(config.out, report)
    print("| setting | agreement | kept |\n|---|---:|---:|")
    for row in report["settings"]:
        print(f"| {row['setting']} | {row['agreement']:.2f} | {row['kept']:.0%} |")


def cut_from_documents(config: ChoicesConfig) -> Dataset:
    """Cuts one window out of each document that is long enough.

    Raises:
        ValueError: None is.
    """
    tokenizer = load_tokenizer_once(config.model_ref)
    cutter = Cutter(tokenizer=tokenizer, window_tokens=config.window_tokens, donors=())
    rows: list[dict[str, Any]] = []
    for number, document in enumerate(read_documents(config.documents)):
        ids = cutter.cut(document, config.window_tokens, np.random.default_rng([0, number]))
        if ids is not None and sum(row[CATEGORY] == document.category for row in rows) < config.windows:
            rows.append({"input_ids": ids, "text": tokenizer.decode(ids), CATEGORY: document.category})
    if not rows:
        raise ValueError(f"No document reaches {config.window_tokens} tokens.")
    return Dataset.from_list(rows)


def score_all(windows: Dataset, choices: Mapping[str, Choice], config: ChoicesConfig) -> dict[str, pa.Table]:
    """Scores the windows by each scorer that the choices need; returns raw scores and categories by `Choice.key`."""
    raw: dict[str, pa.Table] = {}
    for choice in choices.values():
        if choice.key not in raw:
            # the reference code's dtype is part of its convention
            arguments = {"dtype": None if "convention" in choice.scorer else "float32"} | choice.scorer
            scorer = LongAttnScorer(config.model, revision=config.revision, gguf_file=config.gguf_file, **arguments)
            scored = windows.map(scorer, batched=True, batch_size=4)
            raw[choice.key] = pa.table({name: np.array(scored[name]) for name in (*RAW_SCORES, CATEGORY)})
            print(f"scored with {choice.scorer or 'the defaults'}", file=sys.stderr)
    return raw


def compare(
    choices: Mapping[str, Choice], raw: Mapping[str, pa.Table], windows: Dataset, window_tokens: int
) -> dict[str, Any]:
    """Compares every choice with that which it stands beside."""
    categories = np.array(windows[CATEGORY])
    groups = [np.flatnonzero(categories == category) for category in sorted(set(categories))]
    rows, scores = [], {}
    for name, choice in choices.items():
        scores[name] = long_distance_scores(raw[choice.key], alpha=choice.alpha, convention=choice.convention)
        pairs = [np.stack([scores[choice.beside][group], scores[name][group]], axis=1) for group in groups]
        rows.append(
            {
                "setting": name,
                "agreement": float(np.mean([spearmanr(*pair.T).statistic for pair in pairs])),
                "kept": float(np.mean([_share_kept(*pair.T) for pair in pairs])),
            }
        )
    return {
        "device": device_name(pick_device()),
        "versions": {name: installed(name) for name in ("torch", "transformers")},
        "window_tokens": window_tokens,
        "windows": {str(categories[group[0]]): len(group) for group in groups},
        "settings": rows,
        "profile": [
            {
                "min_distance": window_tokens // part,
                "uniform": uniform_dependency_strength(1 / part),
                **{
                    str(categories[group[0]]): float(
                        raw[choices[f"k = L/{part}"].key][DEPENDENCY_STRENGTH].to_numpy()[group].mean()
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
