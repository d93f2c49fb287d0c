"""A small scored build on disk, as the real one leaves it, with texts that try to be markup."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from longattn_hf.files import write_json, write_record
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.shards import ScoredShards
from longattn_hf.selection.select import add_long_distance_score, select_windows
from tests.support.reports import example_report
from tests.support.tiny import build_tokenizer

NASTY = '<script>window.hurt = 1</script><img src="http://198.51.100.1/x" onerror="hurt = 1">\x1b[31mred\u202e &amp; '
TOKENS = 96
CATEGORIES = ("arxiv", "book")


def windows(count: int = 40, seed: int = 0) -> Dataset:
    """Scored windows of two categories, three a document, the first two of which overlap."""
    generator, tokenizer = np.random.default_rng(seed), build_tokenizer()
    rows = []
    for number in range(2 * count):
        document, index = divmod(number, 3)
        text = f"{NASTY}window {number} of a long document that reaches far back, again and again. " * 3
        rows.append(
            {
                "id": f"{generator.integers(2**60):016x}",
                "doc_id": f"document-{document}",
                "window_index": index,
                "start_token": (0, TOKENS // 2, 5 * TOKENS)[index],
                "num_tokens": TOKENS,
                "text": text,
                "input_ids": tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS],
                "category": CATEGORIES[document % 2],
                "source": f"source-{document % 5}<b>",
                "dependency_strength": generator.normal(0.4, 0.02),
                "distribution_uniformity": -generator.gamma(2, 1e-9),
                "map_variance": generator.gamma(2, 1e-9),
            }
        )
    return Dataset.from_list(sorted(rows, key=lambda row: row["category"]))


def write_build(folder: Path, model: str | None = None, *, running: bool = False, **limit: float) -> Dataset:
    """Writes a build of `windows()` into `folder`, half of them kept where nothing else is the limit.

    Returns:
        The windows with the columns of the finished `scores`.
    """
    layout, limit = BuildFolder(folder), limit or {"fraction": 0.5}
    whole = add_long_distance_score(windows(), alpha=0.5)
    kept = set(select_windows(whole, **limit)["id"])
    whole = whole.add_column("kept", [name in kept for name in whole["id"]])
    settings = {"name": "small", "model": model, "convention": "paper", "window_tokens": TOKENS, "min_distance": 16}
    settings["sources"] = [{"category": name, "path": f"me/{name}", "split": "train"} for name in CATEGORIES]
    write_record(layout.settings, settings)
    texts, scores = ("text", "input_ids"), ("long_distance_score", "kept")
    shards = {}
    for name in CATEGORIES:
        mine = whole.filter(lambda row, name=name: row["category"] == name)
        # two shards each, so that a row's place has to be found
        for part in range(2):
            shard = mine.shard(2, part, contiguous=True)
            path = f"{name}/000-00000-{part:05d}.parquet"
            shards[path] = len(shard)
            _write(shard.remove_columns(scores), layout.windows / path)
            _write(shard.remove_columns([*texts, *scores]), layout.scores / path)
        public = mine.filter(lambda row: row["kept"]).remove_columns(["input_ids", "kept"])
        if not running:
            _write(public, layout.data / name / "train-00000-of-00001.parquet")
    if not running:
        rows = np.array(list(shards.values()))
        ScoredShards(layout, tuple(shards), rows, tuple(shards), {}).save()
        _write(whole.remove_columns(texts), layout.published_scores / "train-00000-of-00001.parquet")
        report = example_report() | {"name": "small", "pretty_name": "Small"}
        report["settings"] = {"window_tokens": TOKENS, "min_distance": 16, "alpha": 0.5} | limit
        write_json(layout.report, report)
    return whole


def _write(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table: pa.Table = dataset.with_format("arrow")[:]
    pq.write_table(table, path, row_group_size=7, write_page_checksum=True)
