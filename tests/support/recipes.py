"""A build's configuration on disk, with the documents that it reads."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

WORDS = "the far tokens of a long document matter more than you think 日本語 😀 naïve".split()


def text(words: int, seed: object, of: Sequence[str] = WORDS) -> str:
    """So many words by chance, the same for the same seed."""
    return " ".join(random.Random(seed).choices(of, k=words))


def write_documents(folder: Path, category: str, rows: Sequence[dict[str, Any]], parts: int = 1) -> dict[str, Any]:
    """Writes documents into so many files in turn; returns the source of a configuration that reads them."""
    for part in range(parts):
        Dataset.from_list(rows[part::parts]).to_parquet(folder / f"{category}-{part}.parquet")
    return {"category": category, "path": "parquet", "data_files": str(folder / f"{category}-*.parquet")}


def write_recipe(
    folder: Path, model: Path, documents: Mapping[str, Sequence[dict[str, Any]]], *, parts: int = 1, **settings: Any
) -> Path:
    """Writes documents by category, each into so many files, and a configuration of windows of 32 tokens."""
    sources = [write_documents(folder, category, rows, parts) for category, rows in documents.items()]
    config = {"name": "tiny", "model": str(model), "window_tokens": 32, "fraction": 0.25}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config | settings | {"sources": sources}))
    return path
