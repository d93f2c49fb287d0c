"""Whether windowing keeps up with scoring: tokens a core and second, and the share of scoring that is not statistics.

    python -m recipes.benchmarks.pipeline_cost [--documents FILE.parquet] [--gpu_tokens_per_s N]

Windowing is timed in CPU seconds of one thread, which other work on the machine hardly touches. One JSON file under
recipes/results/ holds the figures.
"""

import json
import os
import statistics
import time
from collections.abc import Sequence

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers starts

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from longattn_hf import LongAttnScorer, WindowDocuments, far_attention
from longattn_hf.files import write_json
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.demo_corpus import demo_documents
from longattn_hf.pipeline.refusal import Refusal
from longattn_hf.pipeline.settings import read_command_line, settings
from recipes.benchmarks.environment import RESULTS, SMALL_MODEL, device_name, read_environment


@settings
class PipelineCostConfig:
    """Which documents to window and score.

    Attributes:
        documents: A Parquet file with a column `text`; the embedded demo's documents if None.
        model: As for `LongAttnScorer`.
        window_tokens: The windows' length.
        rounds: Of windowing, and windows to score; the first of each warms caches, so at least two.
        gpu_tokens_per_s: What a GPU scores, to say how many cores feed it.
    """

    documents: str | None = None
    model: str = SMALL_MODEL
    window_tokens: int = 8192
    rounds: int = 5
    gpu_tokens_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise ValueError(f"rounds={self.rounds} leaves nothing to time after the first; give at least 2.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Times windowing on one core, and the parts of scoring one window after another."""
    try:
        config = read_command_line(PipelineCostConfig, arguments, description=__doc__)
        if config.documents:
            # names the reason where the file cannot be read, which a bare path does not
            rows = pq.read_table(pa.OSFile(config.documents)).to_pylist()
        else:
            rows = list(demo_documents())
        texts = [row["text"] for row in rows]
        report = {
            "environment": read_environment(torch.device("cpu"), torch.float32, rounds=config.rounds),
            "window_tokens": config.window_tokens,
            **time_windowing(texts, config),
            **time_scoring(texts, config),
        }
    except (ValueError, OSError) as error:
        raise Refusal("pipeline_cost", error) from error
    if config.gpu_tokens_per_s:
        report["cores_for_one_gpu"] = config.gpu_tokens_per_s / report["windowing_tokens_per_core_s"]
    name = device_name(torch.device("cpu")).lower().replace(" ", "-")
    path = RESULTS / f"pipeline-{name}.json"
    write_json(path, report)
    print(json.dumps(report, indent=1))
    print(f"written to {path}")


def time_windowing(texts: list[str], config: PipelineCostConfig) -> dict[str, float]:
    """Cuts all documents, round after round; returns tokens read per CPU second of one thread."""
    cut = WindowDocuments(tokenizer=config.model, window_tokens=config.window_tokens)
    tokens = sum(len(ids) for ids in load_tokenizer_once(cut.model_ref)(texts)["input_ids"])
    seconds = []
    for _ in range(config.rounds):
        start = time.thread_time()
        windows = cut({"text": texts})
        seconds.append(time.thread_time() - start)
    return {
        "documents": len(texts),
        "document_tokens": tokens,
        "windows": len(windows["id"]),
        "windowing_tokens_per_core_s": tokens / statistics.median(seconds),
    }


def time_scoring(texts: list[str], config: PipelineCostConfig) -> dict[str, float]:
    """Scores windows whole, and their statistics alone, in turn; returns the share that is not statistics."""
    cut = WindowDocuments(tokenizer=config.model, window_tokens=config.window_tokens)
    windows = cut({"text": texts[:4]})["input_ids"][: config.rounds]
    if len(windows) < 2:
        raise ValueError(
            f"The first four documents hold {len(windows)} windows of {config.window_tokens} tokens, and two are "
            "needed; lower window_tokens or give longer documents."
        )
    scorer = LongAttnScorer(config.model)
    layer = scorer.load_layer()
    whole, alone = [], []
    for ids in windows:
        start = time.perf_counter()
        scorer({"input_ids": [ids]})
        whole.append(time.perf_counter() - start)
        q, k, scale = layer.query_key(torch.tensor(ids[None], dtype=torch.int64))
        start = time.perf_counter()
        far_attention(q, k, min_distance=config.window_tokens // 4, scale=scale)
        alone.append(time.perf_counter() - start)
    # the first round warms caches
    whole_s, alone_s = statistics.median(whole[1:]), statistics.median(alone[1:])
    return {
        "scoring_tokens_per_s": config.window_tokens / whole_s,
        "share_of_scoring_not_statistics": 1 - alone_s / whole_s,
    }


if __name__ == "__main__":
    main()
