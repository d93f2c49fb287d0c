"""Calibrates FarGainScorer on documents of any language or domain, and writes what the package ships.

    python -m recipes.benchmarks.calibrate_far_gain --corpus "my corpus" --out my.json \
        --documents book=books.parquet code=code.parquet

Every category becomes a kind of documents. Only documents that splits.py does not hold out are used, so that no
measurement on held-out ones is a measurement on what was fitted. From the data come:

- the gain's floor, the 95th percentile of collages' gains, and its width, a part of their standard deviation;
- the order's floors, quantiles of the intact windows' z-scores (one for the largest passages, whose order is the least
  certain, and one for the others), and its slope: with the width's part those of a small grid that fall short of the
  bars of controls.py by the least in total, among those that leave the intact windows in about the order of their
  gains (`--agreement`). The bars for shuffles and the agreement pull against each other: a shuffle's far gain is
  larger, a real model's too;
- each kind's figures, and its cut: the quantile `--keep` of the distances of intact windows, each from what was fitted
  on the other half of the documents.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import longattn_hf
from longattn_hf.baselines.far_gain import FarGainCalibration
from longattn_hf.baselines.text_kind import Kind, describe_surface, fit_kind
from longattn_hf.baselines.word_gain import mean_far_gain
from longattn_hf.baselines.word_order import PASSAGES, order_z_scores
from longattn_hf.files import write_text
from longattn_hf.model.location import ModelRef
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from longattn_hf.scoring.words import split_words
from recipes.benchmarks.controls import all_kinds, bars_for
from recipes.benchmarks.environment import SMALL_MODEL
from recipes.benchmarks.planted import read_documents
from recipes.benchmarks.planted_windows import INTACT, Cutter, Document, plant
from recipes.benchmarks.splits import calibration_documents
from recipes.intervals import rank_correlation

_QUANTILES, _SLOPES, _WIDTHS = (0.01, 0.02, 0.05, 0.1, 0.2), (3.0, 6.0), (1.0, 0.5, 0.25)
_COLLAGE_QUANTILE = 0.95
# an order that is below chance is none
_LEAST_FLOOR = 0.1


@settings
class FarGainCalibrationConfig:
    """The documents to calibrate on.

    Attributes:
        documents: As for `recipes.benchmarks.planted`.
        corpus: What the documents are, in words, for the file.
        model: The model whose tokenizer measures the windows.
        window_tokens: The windows' length.
        windows: The most windows of a category with their controls.
        windows_a_document: How many windows of a document a kind is fitted on.
        keep: The share of intact windows that the kinds' cuts should keep.
        agreement: The least rank correlation of the score with the gain alone, among a category's intact windows.
        seed: Of the windows.
        out: The JSON file to write; the package's own by default.
    """

    documents: Several[str] = ("demo",)
    corpus: str
    model: str = SMALL_MODEL
    window_tokens: int = 4096
    windows: int = 12
    windows_a_document: int = 2
    keep: float = 0.975
    agreement: float = 0.75
    seed: int = 0
    out: LocalPath = Path(longattn_hf.__file__).parent / "baselines" / "far_gain_calibration.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrates and writes the file."""
    with refusing("calibrate_far_gain"):
        calibrate(read_command_line(FarGainCalibrationConfig, arguments, description=__doc__))


def calibrate(config: FarGainCalibrationConfig) -> None:
    """Measures windows and controls, tries the grid, and writes the best."""
    documents = calibration_documents(read_documents(config.documents))
    tokenizer = load_tokenizer_once(ModelRef(config.model))
    cutter = Cutter(tokenizer=tokenizer, window_tokens=config.window_tokens, donors=documents)
    bars = bars_for(config.window_tokens)
    planted = list(
        plant(
            documents,
            tokenizer,
            window_tokens=config.window_tokens,
            per_category=config.windows,
            seed=config.seed,
            kinds=list(bars),
            available=all_kinds(config.window_tokens),
        )
    )
    for window in planted:
        _measure(window)
    intact = [_measure(window) for window in cut_windows(documents, cutter, config)]
    collages = np.array([w["gain"] for w in planted if w["kind"].startswith("collage_")])
    start = FarGainCalibration(
        corpus=config.corpus,
        window_tokens=config.window_tokens,
        gain_floor=_round(np.quantile(collages, _COLLAGE_QUANTILE)),
        gain_width=_round(max(collages.std(), 0.01)),
        order_floors=[1.0] * len(PASSAGES),
        order_slope=1.0,
        kinds=[
            _rounded(_fit(category, [w for w in intact if w["category"] == category], config.keep))
            for category in sorted({w["category"] for w in intact})
        ],
    )
    z_scores = np.array([w["z_scores"] for w in intact])
    tried = []
    for others, largest, slope, part in itertools.product(_QUANTILES, _QUANTILES, _SLOPES, _WIDTHS):
        quantiles = [others] * (len(PASSAGES) - 1) + [largest]
        floors = [np.quantile(z_scores[:, i], quantile) for i, quantile in enumerate(quantiles)]
        setting = replace(
            start,
            gain_width=_round(part * start.gain_width),
            order_floors=[_round(max(floor, _LEAST_FLOOR)) for floor in floors],
            order_slope=slope,
        )
        tried.append((_agreement(intact, setting), _shortfall(planted, setting, bars), quantiles, setting))
    # where no setting agrees so much, the one that agrees the most
    least = min(config.agreement, max(agreement for agreement, *_ in tried))
    agreement, shortfall, quantiles, best = min(
        (entry for entry in tried if entry[0] >= least), key=lambda entry: (round(entry[1], 3), entry[2])
    )
    write_text(config.out, json.dumps(asdict(best), ensure_ascii=False) + "\n")
    print(
        f"gain's floor {best.gain_floor}, width {best.gain_width}; order's floors {best.order_floors} (quantiles "
        f"{quantiles}), slope {best.order_slope}; agreement {agreement:.2f}; {shortfall:.2f} short of the bars in "
        f"total; {len(best.kinds)} kinds from {len(intact)} windows; wrote {config.out}"
    )


def cut_windows(
    documents: Sequence[Document], cutter: Cutter, config: FarGainCalibrationConfig
) -> list[dict[str, Any]]:
    """Cuts intact windows out of every document."""
    windows = []
    for number, document in enumerate(documents):
        for place in range(config.windows_a_document):
            ids = cutter.cut(document, cutter.window_tokens, np.random.default_rng([config.seed, 4, number, place]))
            if ids is not None:
                text = cutter.tokenizer.decode(ids)
                windows.append({"category": document.category, "text": text, "half": number % 2})
    return windows


def _measure(window: dict[str, Any]) -> dict[str, Any]:
    words = split_words(window["text"])
    window["gain"], window["z_scores"] = mean_far_gain(words), order_z_scores(words)
    window["surface"] = describe_surface(window["text"])
    return window


def _fit(category: str, windows: Sequence[dict[str, Any]], keep: float) -> Kind:
    surfaces = np.array([w["surface"] for w in windows])
    halves = np.array([w["half"] for w in windows])
    if min(np.sum(halves == half) for half in (0, 1)) < 4:
        raise ValueError(f"Category {category!r} has {len(windows)} windows to calibrate on; give more documents.")
    fitted = [fit_kind(category, surfaces[halves != half]) for half in (0, 1)]
    distances = [fitted[half].distance(surface) for surface, half in zip(surfaces, halves, strict=True)]
    return fit_kind(category, surfaces, cut=float(np.quantile(distances, keep)))


def _weigh(window: dict[str, Any], calibration: FarGainCalibration) -> float:
    return calibration.weigh_gain(window["gain"]) * calibration.weigh_order(window["z_scores"])


def _agreement(windows: Sequence[dict[str, Any]], calibration: FarGainCalibration) -> float:
    """The mean over categories of the rank correlation of the score with the gain alone."""
    columns = np.array([[w["gain"], _weigh(w, calibration)] for w in windows])
    categories = np.array([w["category"] for w in windows])
    return float(np.mean([rank_correlation(columns[categories == c])[0, 1] for c in set(categories)]))


def _shortfall(windows: Sequence[dict[str, Any]], calibration: FarGainCalibration, bars: dict[str, float]) -> float:
    """Adds up by how much each category and kind of control is below its bar."""
    scores = [_weigh(window, calibration) for window in windows]
    kinds, total = all_kinds(calibration.window_tokens), 0.0
    for category in {w["category"] for w in windows}:
        of_kind: dict[str, dict[int, float]] = {}
        for window, score in zip(windows, scores, strict=True):
            if window["category"] == category:
                of_kind.setdefault(window["kind"], {})[window["pair"]] = score
        intact = of_kind[INTACT]
        for name in bars.keys() & of_kind.keys():
            if kinds[name].paired:
                won = [intact[pair] > score for pair, score in of_kind[name].items()]
            else:
                won = np.array(list(intact.values()))[:, None] > np.array(list(of_kind[name].values()))
            total += max(bars[name] - float(np.mean(won)), 0.0)
    return total


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _rounded(kind: Kind) -> Kind:
    return replace(
        kind,
        mean=[float(f"{value:.5g}") for value in kind.mean],
        precision=[[float(f"{value:.5g}") for value in row] for row in kind.precision],
        cut=float(f"{kind.cut:.4g}"),
    )


if __name__ == "__main__":
    main()
