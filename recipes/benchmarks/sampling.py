"""How well a sample of the query rows ranks windows, and how much faster it is, on real documents.

    python -m recipes.benchmarks.sampling                                        # the embedded demo's documents
    python -m recipes.benchmarks.sampling --documents books.parquet code.parquet --model SmolLM2-135M.gguf

A Parquet file's documents (column `text`) are of the category that its column `category` names, or of one named after
the file. Every window is scored exactly and from samples; per category the two rankings by the long-distance score
are compared. One JSON file holds the table; texts are not kept.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from longattn_hf.attention import FarAttention, far_attention
from longattn_hf.attention.sampled import sampled_far_attention
from longattn_hf.files import write_json
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.model.tokenizer import load_tokenizer
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from longattn_hf.scoring.longattn import map_scores
from recipes.benchmarks.environment import RESULTS, SMALL_MODEL, read_environment

ALPHA = 0.5


@settings
class SamplingConfig:
    """On which windows to compare samples with the exact scores.

    Attributes:
        documents: Parquet files; the embedded demo's documents if none.
        model: As for `LongAttnScorer`.
        device: Where to run; a GPU if None and there is one.
        window_tokens: The windows' length.
        windows: The most windows of a category, at least two, which can be ranked.
        fractions: Strides: one row in so many is read.
        guess_keys: From how many keys the other rows are guessed.
        seeds: Drawings to compare; their mean and worst are reported.
        speed_tokens: The length of the window that the timing reads.
        rounds: Of the timing; 0 for none.
        out: The JSON file to write.
    """

    documents: Several[str] = ()
    model: str = SMALL_MODEL
    device: str | None = None
    window_tokens: int = 8192
    windows: int = 32
    fractions: Several[int] = (4, 16, 64)
    guess_keys: Several[int] = (0, 512)
    seeds: int = 3
    speed_tokens: int = 32768
    rounds: int = 5
    out: LocalPath = RESULTS / "sampling-demo.json"

    def __post_init__(self) -> None:
        if self.windows < 2:
            raise ValueError(f"windows={self.windows} cannot be ranked; give at least 2.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison and writes its results."""
    with refusing("sampling"):
        config = read_command_line(SamplingConfig, arguments, description=__doc__)
        layer = FirstLayer.from_pretrained(config.model, device=config.device)
        report = {
            "environment": read_environment(layer.device, layer.dtype, rounds=config.rounds),
            "model": layer.identity["model"],
            "window_tokens": config.window_tokens,
            "seeds": config.seeds,
        }
        windows = dict(draw_windows(config))
    report["ranking"] = [row for category, ids in windows.items() for row in compare(layer, category, ids, config)]
    all_ids = np.concatenate([x for ids in windows.values() for x in ids])
    report["speed"] = measure_speed(layer, all_ids, config) if config.rounds else []
    write_json(config.out, report)
    print(f"wrote {config.out}")


def draw_windows(config: SamplingConfig) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields each category with the ids of its windows: the first of every document, then the second, and so on."""
    tokenizer = load_tokenizer(config.model)
    for category, texts in read_texts(config.documents).items():
        # one document in turn gives a window, so that no long one takes all places
        cut: list[list[np.ndarray]] = []
        share = -(-config.windows // len(texts))
        for text in texts:
            if sum(map(len, cut)) >= config.windows:
                break
            # a token is rarely longer than 16 characters
            ids = np.array(tokenizer(text[: 16 * share * config.window_tokens], add_special_tokens=False)["input_ids"])
            whole = len(ids) // config.window_tokens * config.window_tokens
            cut.append(list(ids[:whole].reshape(-1, config.window_tokens)[:share]))
        windows = [window for document in cut for window in document][: config.windows]
        if len(windows) < 2:
            raise ValueError(
                f"The documents of {category!r} hold {len(windows)} windows of {config.window_tokens} tokens, and two "
                "are needed to rank; lower window_tokens or give more documents."
            )
        print(f"{category}: {len(windows)} windows")
        yield category, windows


def read_texts(files: Sequence[str]) -> dict[str, list[str]]:
    """The documents' texts by category."""
    texts: dict[str, list[str]] = {}
    if not files:
        from longattn_hf.pipeline.demo_corpus import demo_documents

        for document in demo_documents():
            texts.setdefault(document["category"], []).append(document["text"])
        return texts
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        # names the reason where the file cannot be read, which a bare path does not
        table = pq.read_table(pa.OSFile(file))
        own = "category" in table.column_names
        names = table["category"].to_pylist() if own else [Path(file).stem] * len(table)
        for name, text in zip(names, table["text"].to_pylist(), strict=True):
            texts.setdefault(name, []).append(text)
    return texts


def compare(layer: FirstLayer, category: str, windows: list[np.ndarray], config: SamplingConfig) -> list[dict]:
    """Scores a category's windows exactly and from each kind of sample, and compares the rankings."""
    kinds = [
        (fraction, keys, seed)
        for fraction in config.fractions
        for keys in config.guess_keys
        for seed in range(config.seeds)
    ]
    exact, sampled, errors = [], {kind: [] for kind in kinds}, {kind: [] for kind in kinds}
    min_distance = config.window_tokens // 4
    for ids in windows:
        q, k, scale = layer.query_key(torch.from_numpy(ids)[None].long())
        exact.append(scores(far_attention(q, k, min_distance=min_distance, scale=scale), config.window_tokens))
        for kind in kinds:
            fraction, keys, seed = kind
            sample = sampled_far_attention(
                q, k, min_distance=min_distance, row_fraction=1 / fraction, seed=seed, scale=scale, guess_keys=keys
            )
            sampled[kind].append(scores(sample.far, config.window_tokens))
            errors[kind].append([float(sample.dependency_strength_error), float(sample.distribution_uniformity_error)])
    rows = []
    for fraction in config.fractions:
        for keys in config.guess_keys:
            alike = [
                (np.array(sampled[kind]), np.array(errors[kind])) for kind in kinds if kind[:2] == (fraction, keys)
            ]
            rows.append(
                {"category": category, "windows": len(windows), "fraction": f"1/{fraction}", "guess_keys": keys}
            )
            rows[-1] |= agreement(np.array(exact), alike)
            print(json.dumps(rows[-1]))
    return rows


def scores(far: FarAttention, num_tokens: int) -> list[float]:
    """Dependency strength and distribution uniformity of one window, each the mean over the heads."""
    by_head = map_scores(far, num_tokens, num_tokens // 4)
    return [float(by_head[name].mean()) for name in ("dependency_strength", "distribution_uniformity")]


def agreement(exact_W2: np.ndarray, samples: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Compares estimates of the windows' two scores with the exact ones.

    Returns:
        The Spearman correlation of the long-distance scores and the share of the better half that is the same, mean
        and worst over the drawings; and of each score its root mean square error, over the spread between windows
        and over the standard errors that come with the estimates.
    """
    truth = long_distance(exact_W2)
    half = len(truth) // 2
    best = set(np.argsort(-truth)[:half])
    correlations, overlaps = [], []
    for estimate_W2, _ in samples:
        estimate = long_distance(estimate_W2)
        correlations.append(float(spearmanr(estimate, truth).statistic))
        overlaps.append(len(best & set(np.argsort(-estimate)[:half])) / half)
    missed_SW2 = np.stack([estimate - exact_W2 for estimate, _ in samples])
    rms = np.sqrt((missed_SW2**2).mean((0, 1)))
    claimed = np.sqrt((np.stack([errors for _, errors in samples]) ** 2).mean((0, 1)))
    return {
        "spearman": statistics.mean(correlations),
        "spearman_worst": min(correlations),
        "kept_half_overlap": statistics.mean(overlaps),
        "kept_half_overlap_worst": min(overlaps),
        "rms_error_over_spread": (rms / exact_W2.std(0)).round(4).tolist(),
        "rms_error_over_said": (rms / claimed).round(3).tolist(),
    }


def long_distance(scores_W2: np.ndarray) -> np.ndarray:
    """z(DS) + alpha z(DU) over a category's windows (arXiv:2502.16860, Eq. 8)."""
    standardised = (scores_W2 - scores_W2.mean(0)) / scores_W2.std(0)
    return standardised @ np.array([1, ALPHA])


def measure_speed(layer: FirstLayer, ids: np.ndarray, config: SamplingConfig) -> list[dict[str, Any]]:
    """Times reading the sums of one long window exactly and from samples, in rounds that go through all."""
    tokens = config.speed_tokens
    q, k, scale = layer.query_key(torch.from_numpy(np.resize(ids, tokens))[None].long())

    def reader(fraction: int, keys: int) -> Callable[[], Any]:
        return lambda: sampled_far_attention(
            q, k, min_distance=tokens // 4, row_fraction=1 / fraction, scale=scale, guess_keys=keys
        )

    readers: dict[tuple, Callable[[], Any]] = {
        ("exact", None): lambda: far_attention(q, k, min_distance=tokens // 4, scale=scale)
    }
    readers |= {(f"1/{f}", keys): reader(f, keys) for f in config.fractions for keys in config.guess_keys}
    seconds = {name: [] for name in readers}
    for _ in range(config.rounds):
        for name, read in readers.items():
            seconds[name].append(timed(read, q))
    exact = statistics.median(seconds["exact", None])
    rows = []
    for (fraction, keys), times in seconds.items():
        median = statistics.median(times)
        rows.append({"tokens": tokens, "fraction": fraction, "guess_keys": keys, "median_s": median})
        rows[-1] |= {"min_s": min(times), "max_s": max(times), "speed_up": exact / median}
        print(json.dumps(rows[-1]))
    return rows


def timed(read: Callable[[], Any], q: Tensor) -> float:
    """Seconds of one call."""
    synchronize = torch.cuda.synchronize if q.is_cuda else (lambda: None)
    synchronize()
    start = time.perf_counter()
    read()
    synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
