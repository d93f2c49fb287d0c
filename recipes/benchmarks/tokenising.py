"""What cutting documents into windows costs: CPU time beside a plain call of the tokenizer, memory of a long document.

    python -m recipes.benchmarks.tokenising [--documents FILE.parquet] [--long_tokens 30000000]

The same documents are tokenised in turn by the tokenizer itself, with offsets, and as `WindowDocuments` does, anew in
each round (nothing is remembered from the one before) and again; CPU seconds of the process, which other work on the
machine hardly touches. Ids and ends of both are compared. Then a fresh process windows one document, made of the
documents over and over, and reports how far its memory went above what text and tokenizer had taken.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers starts

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from longattn_hf import WindowDocuments
from longattn_hf.files import write_json
from longattn_hf.model.pieces import DocumentTokenizer, document_tokenizer
from longattn_hf.model.tokenizer import load_tokenizer_once, tokenise
from longattn_hf.pipeline.demo_corpus import demo_documents
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, read_command_line, settings
from recipes.benchmarks.environment import RESULTS, SMALL_MODEL, allocated_bytes, device_name, read_environment


@settings
class TokenisingConfig:
    """Which documents to tokenise.

    Attributes:
        documents: A Parquet file with a column `text`; the embedded demo's documents if None.
        model: As for `LongAttnScorer`.
        window_tokens: The windows' length.
        rounds: Of both ways in turn.
        long_tokens: The long document's tokens, at least; no such document if 0.
        out: The JSON file to write.
        child: Window the long document in this process, and print what it took.
    """

    documents: LocalPath | None = None
    model: str = SMALL_MODEL
    window_tokens: int = 32768
    rounds: int = 5
    long_tokens: int = 30_000_000
    out: LocalPath = RESULTS / "tokenising-demo.json"
    child: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} times nothing; give at least 1.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Times both ways, and measures the memory of one long document."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    with refusing("tokenising"):
        config = read_command_line(TokenisingConfig, words, description=__doc__)
        if config.documents:
            texts = pq.read_table(pa.OSFile(str(config.documents)), columns=["text"])["text"].to_pylist()
        else:
            texts = [document["text"] for document in demo_documents()]
        if config.child:
            print(json.dumps(measure_memory(texts, config)))
            return
        report = {
            "environment": read_environment(torch.device("cpu"), torch.float32, rounds=config.rounds),
            "device": device_name(torch.device("cpu")),
            **compare_speed(texts, config),
        }
        if config.long_tokens:
            command = [sys.executable, "-m", "recipes.benchmarks.tokenising", *words, "--child", "true"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
            if done.returncode:
                raise ValueError(f"The process that windows the long document failed: {done.stderr[-500:]}")
            report["long_document"] = json.loads(done.stdout.splitlines()[-1])
    write_json(config.out, report)
    print(json.dumps(report, indent=1))


def compare_speed(texts: list[str], config: TokenisingConfig) -> dict[str, Any]:
    """Tokenises all documents in turn by both ways, from ids and ends on; returns medians of CPU seconds."""
    tokenizer = load_tokenizer_once(WindowDocuments(tokenizer=config.model).model_ref)
    seconds: dict[str, list[float]] = {"plain": [], "anew": [], "again": []}
    for _ in range(config.rounds):
        expected = _timed(seconds["plain"], lambda: tokenise(tokenizer, texts).encodings or [])
        documents = DocumentTokenizer(tokenizer)
        for way in ("anew", "again"):
            found = _timed(seconds[way], lambda documents=documents: list(documents(texts)))
    for tokens, encoding in zip(found, expected, strict=True):
        if tokens.ids.tolist() != encoding.ids or tokens.ends.tolist() != [end for _, end in encoding.offsets]:
            raise ValueError("The two ways do not give the same ids and ends.")
    tokens = sum(len(tokens.ids) for tokens in found)
    rates = {way: tokens / statistics.median(times) for way, times in seconds.items()}
    ratios = {
        f"times_as_fast_{way}": statistics.median(np.divide(seconds["plain"], seconds[way]))
        for way in ("anew", "again")
    }
    return {"documents": len(texts), "tokens": tokens, "tokens_per_core_s": rates, **ratios}


def _timed(seconds: list[float], call: Callable[[], list]) -> list:
    start = time.process_time()
    value = call()
    seconds.append(time.process_time() - start)
    return value


def measure_memory(texts: list[str], config: TokenisingConfig) -> dict[str, Any]:
    """Windows one long document; returns how much more memory than before was in use at the most."""
    cut = WindowDocuments(tokenizer=config.model, window_tokens=config.window_tokens)
    documents = document_tokenizer(load_tokenizer_once(cut.model_ref))
    counts = [len(tokens.ids) for tokens in documents(texts)]
    parts: list[str] = []
    tokens = 0
    for text, count in cycle(zip(texts, counts, strict=True)):
        if tokens >= config.long_tokens:
            break
        parts.append(text)
        tokens += count
    text = "\n\n".join(parts)
    del parts
    before = allocated_bytes(torch.device("cpu"))
    start = time.process_time()
    windows = cut({"text": [text]})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    covered = sum(windows["num_tokens"]) - sum(windows["overlap_tokens"])
    return {
        "characters": len(text),
        "text_bytes": sys.getsizeof(text),
        "tokens": covered,
        "windows": len(windows["id"]),
        "cpu_seconds": time.process_time() - start,
        "megabytes_before": before / 2**20,
        "megabytes_at_peak": peak / 2**20,
        "bytes_a_token_above": (peak - before) / covered,
    }


if __name__ == "__main__":
    main()
