"""Calibrates EchoScorer on documents that no test uses, and writes what the package ships.

    python -m recipes.benchmarks.calibrate_echo --documents book=books.parquet code=code.parquet --corpus "my corpus"

The background's word shares come from collages of the calibration documents; the three constants are those of a small
grid with the largest least margin over the targets (area 0.90 on collages, 0.75 of the pairs on shuffles) in any
category and window length; within a hundredth of it the largest tilt, which rewards far echoes, then the largest mean
margin. The documents are those that
`recipes.benchmarks.planted` with the same --documents, --seed and --calibration-share leaves out of its test.
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import longattn_hf
from longattn_hf.files import write_text
from longattn_hf.model.location import ModelRef
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from longattn_hf.scoring.echo import Calibration, echo_gains, word_frequencies
from recipes.benchmarks.environment import SMALL_MODEL
from recipes.benchmarks.planted import read_documents
from recipes.benchmarks.planted_windows import INTACT, kinds_for, plant, split_documents

FLOORS, SHARPNESSES, TILTS = (0.14, 0.16, 0.18, 0.20, 0.22), (2.0, 4.0), (0.0, 0.05, 0.1, 0.2)
_WORDS = 3000
# half of them give the intact windows, the others the controls
_LEAST_DOCUMENTS = 8
_TARGETS = {"auc": 0.90, "pairs": 0.75}


@settings
class CalibrateConfig:
    """The documents to calibrate on.

    Attributes:
        documents: As for `recipes.benchmarks.planted`.
        corpus: What the documents are, in words, for the file.
        window_tokens: The windows' lengths.
        windows: The most intact windows of a category.
        seed: Of the split of the documents, and of the windows.
        calibration_share: The share of the documents to calibrate on.
        out: The JSON file to write; the package's own by default.
    """

    documents: Several[str] = ("demo",)
    corpus: str
    window_tokens: Several[int] = (4096, 8192)
    windows: int = 40
    seed: int = 0
    calibration_share: float = 0.5
    out: LocalPath = Path(longattn_hf.__file__).parent / "scoring" / "echo_calibration.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrates and writes the file."""
    with refusing("calibrate_echo"):
        calibrate(read_command_line(CalibrateConfig, arguments, description=__doc__))


def calibrate(config: CalibrateConfig) -> None:
    """Plants windows, tries the grid, and writes the best."""
    tokenizer = load_tokenizer_once(ModelRef(SMALL_MODEL))
    if not 0 < config.calibration_share <= 1:
        raise ValueError(f"calibration_share={config.calibration_share} must lie in (0, 1].")
    documents, _ = split_documents(
        list(read_documents(config.documents)), share=config.calibration_share, seed=config.seed
    )
    for category in dict.fromkeys(document.category for document in documents):
        count = sum(document.category == category for document in documents)
        if count < _LEAST_DOCUMENTS:
            raise ValueError(
                f"{count} documents of the category {category!r} are left to calibrate on (calibration_share="
                f"{config.calibration_share}), and {_LEAST_DOCUMENTS} are the least: give at least "
                f"{math.ceil(_LEAST_DOCUMENTS / config.calibration_share)} of {max(config.window_tokens)} tokens."
            )
    windows = {
        tokens: list(
            plant(
                documents,
                tokenizer,
                window_tokens=tokens,
                per_category=config.windows,
                seed=config.seed + 1,
                kinds=[name for name, kind in kinds_for(tokens).items() if kind.target],
            )
        )
        for tokens in config.window_tokens
    }
    collages = [w["text"] for rows in windows.values() for w in rows if w["kind"] == "collage_512"]
    frequencies, other = word_frequencies(collages, _WORDS)
    gains = {
        tokens: np.array([echo_gains(w["text"], frequencies, other) for w in rows]) for tokens, rows in windows.items()
    }
    tried = []
    for floor, sharpness, tilt in itertools.product(FLOORS, SHARPNESSES, TILTS):
        setting = Calibration(
            frequencies={word: float(f"{share:.3g}") for word, share in frequencies.items()},
            other_frequency=float(f"{other:.3g}"),
            far_floor=floor,
            sharpness=sharpness,
            tilt=tilt,
            corpus=config.corpus,
        )
        margins = np.array([m for tokens in windows for m in _margins(windows[tokens], gains[tokens], setting)])
        tried.append((float(margins.min()), setting, float(margins.mean())))
    most = max(least for least, _, _ in tried)
    good = [entry for entry in tried if entry[0] >= most - 0.01]
    least, best, mean = max(good, key=lambda entry: (entry[1].tilt, entry[2]))
    write_text(config.out, json.dumps(asdict(best), ensure_ascii=False, indent=0) + "\n")
    print(
        f"far_floor {best.far_floor}, sharpness {best.sharpness}, tilt {best.tilt}: least margin over the targets "
        f"{least:.3f}, mean {mean:.3f}; wrote {config.out}"
    )


def _margins(windows: list[dict[str, Any]], gains: np.ndarray, calibration: Calibration) -> Iterator[float]:
    """Yields by how much each category and kind exceeds its target."""
    scores = {w["id"]: calibration.combine(near, far) for w, (near, far) in zip(windows, gains, strict=True)}
    tokens = len(windows[0]["input_ids"])
    for category in dict.fromkeys(w["category"] for w in windows):
        intact = {w["pair"]: scores[w["id"]] for w in windows if (w["category"], w["kind"]) == (category, INTACT)}
        for name, kind in kinds_for(tokens).items():
            if kind.target is None:
                continue
            of_kind = {w["pair"]: scores[w["id"]] for w in windows if (w["category"], w["kind"]) == (category, name)}
            if kind.paired:
                won = [intact[pair] > score for pair, score in of_kind.items()]
            else:
                won = np.array(list(intact.values()))[:, None] > np.array(list(of_kind.values()))
            yield float(np.mean(won)) - _TARGETS[kind.target]


if __name__ == "__main__":
    main()
