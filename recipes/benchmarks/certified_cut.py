"""What a certified cut keeps of the exact selection, how many windows it scores again, and what it costs.

    python -m recipes.benchmarks.certified_cut                                   # the embedded demo's documents
    python -m recipes.benchmarks.certified_cut --documents arxiv=arxiv.parquet book=book.parquet --windows 64

Every row of every window is read exactly and guessed once, so that each drawing of rows is replayed without the model,
by the package's own estimate, and followed through the steps of the package's own decision. What the steps cost is
timed apart, by scorers as a build runs them, in rounds on the same windows.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from longattn_hf.attention.api import FarAttention, far_rows
from longattn_hf.attention.guess import Guess, guess_rows
from longattn_hf.attention.sampled import draw_cells, estimate_sums, expect_misses
from longattn_hf.columns import CATEGORY, KEPT, STANDARD_ERROR
from longattn_hf.files import write_json
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.model.tokenizer import load_tokenizer
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from longattn_hf.rows import put_array
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.scoring.map_scores import map_scores
from longattn_hf.selection.certify import certify
from longattn_hf.selection.cut import Selection
from longattn_hf.selection.standardisation import RAW_SCORES, ScoreStatistics
from longattn_hf.selection.steps import NEXT_FRACTION, join_steps, next_steps
from recipes.benchmarks.environment import RESULTS, SMALL_MODEL, read_environment
from recipes.benchmarks.sampling import read_texts

_ERRORS = [f"{name}{STANDARD_ERROR}" for name in RAW_SCORES[:2]]


@settings
class CertifiedCutConfig:
    """On which windows to try a certified cut.

    Attributes:
        documents: Parquet files with a column `text`, each as `category=path`; the embedded demo's documents if none.
        model: As for `LongAttnScorer`.
        window_tokens: The windows' length.
        windows: The most windows of a category.
        row_fraction: The share of the rows that the first step reads.
        seeds: Drawings to follow.
        confidence: The one that is asked for.
        timed: The windows that the timing reads; 0 for none.
        rounds: Of the timing.
        folder: Keeps what was read of each window, so that a run that was ended goes on.
        out: The JSON file to write.
    """

    documents: Several[str] = ()
    model: str = SMALL_MODEL
    window_tokens: int = 8192
    windows: int = 32
    row_fraction: float = 1 / 16
    seeds: int = 24
    confidence: float = 0.99
    timed: int = 6
    rounds: int = 3
    folder: LocalPath = Path("certified-cut")
    out: LocalPath = RESULTS / "certified-demo-8192.json"

    def __post_init__(self) -> None:
        if self.windows < 8 or self.seeds < 1:
            raise ValueError("A cut of an eighth needs at least 8 windows, and a share of drawings one seed.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark and writes its results."""
    started = time.process_time()
    with refusing("certified_cut"):
        config = read_command_line(CertifiedCutConfig, arguments, description=__doc__)
        windows = draw_windows(config)
        layer = FirstLayer.from_pretrained(config.model, device="cpu")
        read = {c: [read_rows(config, layer, c, i, ids) for i, ids in enumerate(w)] for c, w in windows.items()}
    report: dict[str, Any] = {
        "environment": read_environment(torch.device("cpu"), torch.float32, rounds=config.rounds),
        "model": layer.identity["model"],
        "shape": {name: getattr(layer, name) for name in ("num_heads", "num_kv_heads", "head_dim")},
        "window_tokens": config.window_tokens,
        "windows": {category: len(ids) for category, ids in windows.items()},
        "confidence": config.confidence,
        "seeds": config.seeds,
        "steps": [config.row_fraction, NEXT_FRACTION, 1],
    }
    report["cost"] = cost = (
        measure_cost(config, [ids for w in windows.values() for ids in w]) if config.timed else None
    )
    tables = draw_steps(config, read)
    tokens = sum(len(ids) for ids in next(iter(windows.values())))
    selections = {
        "top 1/8": Selection(fraction=0.125),
        "top 1/2": Selection(fraction=0.5),
        "budget of 0.3": Selection(token_budget=int(0.3 * tokens)),
    }
    report["cuts"] = {name: follow(config, tables, one, cost) for name, one in selections.items()}
    report["errors"] = describe_errors(tables)
    report["cpu_seconds"] = round(time.process_time() - started, 1)
    write_json(config.out, report)
    print(f"wrote {config.out}")


def draw_windows(config: CertifiedCutConfig) -> dict[str, list[np.ndarray]]:
    """Returns the ids of each category's windows, the same number of the front of each document in turn."""
    tokenizer = load_tokenizer(config.model)
    texts: dict[str, list[str]] = {}
    for one in config.documents:
        category, _, path = one.rpartition("=")
        texts[category or Path(path).stem] = [text for of in read_texts([path]).values() for text in of]
    windows = {}
    for category, of_category in (texts or read_texts(())).items():
        cut: list[np.ndarray] = []
        share = -(-config.windows // len(of_category))
        for text in of_category:
            if len(cut) >= config.windows:
                break
            # a token is rarely longer than 16 characters
            ids = np.array(tokenizer(text[: 16 * share * config.window_tokens], add_special_tokens=False)["input_ids"])
            whole = len(ids) // config.window_tokens * config.window_tokens
            cut += list(ids[:whole].reshape(-1, config.window_tokens)[:share])
        windows[category] = cut[: config.windows]
        print(f"{category}: {len(windows[category])} windows of {config.window_tokens} tokens", flush=True)
        if len(windows[category]) < 8:
            raise ValueError(f"{category} has too few windows to cut an eighth of; lower window_tokens.")
    return windows


@dataclass(frozen=True)
class Read:
    """A window, read once: the file of all its rows' sums, float32 [2, HQ, F] mass and energy, and their guess."""

    path: Path
    guess: Guess


def read_rows(config: CertifiedCutConfig, layer: FirstLayer, category: str, number: int, ids: np.ndarray) -> Read:
    """Reads all rows of a window, unless that was done before, and guesses them."""
    path = config.folder / f"{config.window_tokens}" / f"{category}-{number:03d}-exact.npy"
    far = config.window_tokens // 4
    with torch.inference_mode():
        q, k, scale = layer.query_key(torch.from_numpy(ids)[None].long())
        guess = guess_rows(q[0], k[0], min_distance=far, scale=scale)
        assert guess is not None
        if not path.exists():
            positions = torch.arange(far, config.window_tokens)
            exact = far_rows(q[:, :, far:], k, min_distance=far, scale=scale, positions=positions)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.save(file, torch.stack(exact)[:, 0].numpy())
            path.with_suffix(".tmp").rename(path)
    return Read(path, guess)


def draw_steps(config: CertifiedCutConfig, read: Mapping[str, list[Read]]) -> dict[int, list[tuple[float, pa.Table]]]:
    """Returns, by seed, all windows' scores in every step, as one drawing gives them; the last ones are exact."""
    tokens, far = config.window_tokens, config.window_tokens // 4
    fractions = (config.row_fraction, NEXT_FRACTION)
    rows: dict[int, list[list[dict[str, Any]]]] = {seed: [[], [], []] for seed in range(config.seeds)}
    for category, windows in read.items():
        for window in windows:
            exact = torch.from_numpy(np.load(window.path))
            shape: dict[str, int] = {"num_heads": exact.shape[1], "num_tokens": tokens, "min_distance": far}
            sizes = expect_misses(window.guess, **shape)
            whole = exact.sum(-1, dtype=torch.float64), torch.zeros(2)
            for seed, steps in rows.items():
                drawn = [draw_cells(sizes, fraction, seed=seed) for fraction in fractions]
                estimates = [estimate_sums(exact.flatten(1)[:, d.cells_N], window.guess, d, **shape) for d in drawn]
                for step, (sums, errors) in zip(steps, [*estimates, whole], strict=True):
                    scores = map_scores(FarAttention(*sums[:, None], "blockwise"), tokens, far)
                    row = {name: float(of_heads.mean()) for name, of_heads in scores.items()}
                    row |= dict(zip(_ERRORS, errors.tolist(), strict=True))
                    step.append({"id": window.path.stem, CATEGORY: category, "num_tokens": tokens} | row)
    return {
        seed: [(f, pa.Table.from_pylist(step)) for f, step in zip((*fractions, 1.0), steps, strict=True)]
        for seed, steps in rows.items()
    }


def follow(
    config: CertifiedCutConfig,
    tables: Mapping[int, list[tuple[float, pa.Table]]],
    selection: Selection,
    cost: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Takes a cut through its steps with every drawing, and compares what is kept with the exact selection."""
    runs = [run(config, steps, selection) for steps in tables.values()]
    names = list(runs[0]["agreement"])
    shares = [float(np.mean([run["shares"][step] for run in runs])) for step in range(3)]
    mean = {
        name: {c: statistics.mean(run[name][c] for run in runs) for c in names} for name in ("sampled", "agreement")
    }
    result = {
        "agreement": statistics.mean(mean["agreement"].values()),
        "agreement_worst": min(min(run["agreement"].values()) for run in runs),
        "agreement_of_first_step": statistics.mean(mean["sampled"].values()),
        "by_category": mean["agreement"],
        "windows_scored_in_each_step": shares,
        "rounds": float(np.mean([run["rounds"] for run in runs])),
        "seeds_right_on_their_scale": f"{sum(run['right'] for run in runs)} of {len(runs)}",
        "claimed_wrong": float(np.mean([run["wrong"] for run in runs])),
        "windows_exchanged_by_exact_scale": float(np.mean([run["exchanged"] for run in runs])),
        "claimed_exchanged": float(np.mean([run["moved"] for run in runs])),
        "seeds_equal_to_exact_selection": f"{sum(min(run['agreement'].values()) == 1 for run in runs)} of {len(runs)}",
    }
    if cost:
        seconds = [cost[name]["median_s"] for name in ("first", "next", "exact")]
        result["cpu_share_of_exact"] = float(np.dot(shares, seconds)) / seconds[-1]
    print(json.dumps(result), flush=True)
    return result


def run(config: CertifiedCutConfig, steps: list[tuple[float, pa.Table]], selection: Selection) -> dict[str, Any]:
    """Takes a cut through its steps with one drawing."""
    count = len(steps[0][1])
    scored = np.zeros((3, count), dtype=bool)
    scored[0] = True
    rounds, first = 0, None
    while True:
        joined = join_steps(
            [(f, only(t, at)) for (f, t), at in zip(steps, scored, strict=True)], [*RAW_SCORES, *_ERRORS]
        )
        certificate = certify(joined, selection, confidence=config.confidence)
        first = joined if first is None else first
        if not len(certificate.undecided):
            break
        fractions = next_steps(joined, certificate.undecided, certificate.nearly)
        scored[1, certificate.undecided[fractions < 1]] = True
        scored[2, certificate.undecided[fractions == 1]] = True
        rounds += 1
    every = only(steps[-1][1], np.ones(count, dtype=bool))
    exact, kept, sampled = (kept_of(table, selection) for table in (every, joined, first))
    # what exact scores keep on the scale that the cut was made on
    on_scale = kept_of(every, replace(selection, statistics=ScoreStatistics.of(joined)))
    categories = np.array(joined[CATEGORY])
    overlap = {
        name: {
            c: float((mask & exact)[categories == c].sum() / exact[categories == c].sum())
            for c in certificate.categories
        }
        for name, mask in {"agreement": kept, "sampled": sampled}.items()
    }
    doubts = [asdict(doubt) for doubt in certificate.categories.values()]
    return overlap | {
        "shares": scored.mean(axis=1).tolist(),
        "rounds": rounds,
        "right": bool((on_scale == kept).all()),
        "wrong": sum(doubt["wrong"] for doubt in doubts),
        "moved": sum(doubt["moved"] for doubt in doubts),
        "exchanged": int((exact & ~on_scale).sum()),
    }


def only(table: pa.Table, scored: np.ndarray) -> pa.Table:
    """Returns a table with scores in some rows only."""
    for name in [*RAW_SCORES, *_ERRORS]:
        column = pa.array(np.where(scored, table[name].to_numpy(), np.nan), from_pandas=True)
        table = put_array(table, name, column)
    return table


def kept_of(table: pa.Table, selection: Selection) -> np.ndarray:
    """Returns which windows a selection keeps."""
    return selection.apply(table)[KEPT].to_numpy(zero_copy_only=False)


def describe_errors(tables: Mapping[int, list[tuple[float, pa.Table]]]) -> list[dict[str, Any]]:
    """Says how large the errors of each step are, beside the spread of the windows and beside what they claim."""
    rows = []
    for step, (fraction, _) in enumerate(tables[0][:-1]):
        for category in tables[0][0][1][CATEGORY].unique().to_pylist():
            row: dict[str, Any] = {"row_fraction": fraction, "category": category}
            for name, error in zip(RAW_SCORES[:2], _ERRORS, strict=True):
                missed, claimed = [], []
                for steps in tables.values():
                    here = np.array(steps[0][1][CATEGORY]) == category
                    values, exact = (steps[at][1][name].to_numpy()[here] for at in (step, -1))
                    missed.append(values - exact)
                    claimed.append(steps[step][1][error].to_numpy()[here])
                off, claims = np.stack(missed), np.stack(claimed)
                row[name] = {
                    "rms_over_spread": float(np.sqrt((off**2).mean()) / exact.std()),
                    "rms_over_claimed": float(np.sqrt((off**2).mean() / (claims**2).mean())),
                    "within_2_errors": float((np.abs(off) <= 2 * claims).mean()),
                }
            rows.append(row)
    return rows


def measure_cost(config: CertifiedCutConfig, windows: Sequence[np.ndarray]) -> dict[str, Any]:
    """Times the scorer of each step on the same windows, ids to scores, in CPU seconds of this process a window."""
    fractions = {"first": config.row_fraction, "next": NEXT_FRACTION, "exact": None}
    scorers = {name: LongAttnScorer(config.model, device="cpu", row_fraction=f) for name, f in fractions.items()}
    picked = [windows[at] for at in np.linspace(0, len(windows) - 1, config.timed).astype(int)]
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    for scorer in scorers.values():
        scorer({"input_ids": [picked[0][: config.window_tokens // 8]]})
    for _ in range(config.rounds):
        for ids in picked:
            for name, scorer in scorers.items():
                start = time.process_time()
                scorer({"input_ids": [ids]})
                seconds[name].append(time.process_time() - start)
    return {n: {"median_s": statistics.median(s), "min_s": min(s), "max_s": max(s)} for n, s in seconds.items()}


if __name__ == "__main__":
    main()
