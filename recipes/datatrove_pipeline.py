"""Windowing and scoring as steps of datatrove, for whoever has pipelines of it.

    pip install datatrove orjson && python recipes/datatrove_pipeline.py DOCUMENTS OUT MODEL [TASKS]
    longattn select OUT/*.parquet --token_budget 1000000000 -o kept.parquet

Documents are JSON lines with `text`, `id` and, as further keys, `category`, `source` and `license`. The executors for
Slurm and Jobs take the same `steps`: give at least as many tasks as there are GPUs, and as many files as tasks. A task
that was killed begins again; its shards are there whole or not at all, and are not scored twice.
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader

from longattn_hf import LongAttnScorer, WindowDocuments, on_arrow
from longattn_hf.columns import CATEGORY, LICENSE, SOURCE, WINDOW_FEATURES
from longattn_hf.files import hash_json
from longattn_hf.pipeline.shards import read_facts, write_shard

KEPT = {name: pa.string() for name in (CATEGORY, SOURCE, LICENSE)}
COLUMNS = pa.schema([*WINDOW_FEATURES.arrow_schema, *map(pa.field, KEPT, KEPT.values())])


class Windows(PipelineStep):
    """Documents to windows, each a document whose metadata are a window's columns."""

    def __init__(self, transform: WindowDocuments) -> None:
        super().__init__()
        self.transform = transform

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields windows."""
        for document in data:
            row = {"id": [document.id], "text": [document.text], **{n: [document.metadata.get(n)] for n in KEPT}}
            for window in on_arrow(self.transform)(pa.table(row)).cast(COLUMNS).to_pylist():
                yield Document(text=window["text"], id=window["id"], metadata=window)


class Scores(PipelineStep):
    """Windows to shards of scored windows, `size` in each."""

    def __init__(self, scorer: LongAttnScorer, folder: str, size: int = 256) -> None:
        super().__init__()
        self.scorer, self.folder, self.size = scorer, folder, size

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Writes the shards that are not there yet, and hands the windows on."""
        windows, made_from, number = iter(data), self.scorer.fingerprint, 0
        while shard := list(islice(windows, self.size)):
            path = Path(self.folder) / f"{rank:05d}-{number:05d}.parquet"
            table = pa.Table.from_pylist([window.metadata for window in shard], COLUMNS)
            fingerprint, number = hash_json([made_from, table.to_pylist()]), number + 1
            if read_facts(path, fingerprint) is None:
                write_shard(path, on_arrow(self.scorer)(table), fingerprint)
            yield from shard


if __name__ == "__main__":
    documents, out, model, tasks = [*sys.argv[1:], "1"][:4]
    steps = [JsonlReader(documents), Windows(WindowDocuments(model)), Scores(LongAttnScorer(model), out)]
    LocalPipelineExecutor(steps, tasks=int(tasks), workers=1, logging_dir=f"{out}-logs").run()
