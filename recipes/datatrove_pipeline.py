"""Windowing and scoring as datatrove steps: `python recipes/datatrove_pipeline.py DOCS OUT MODEL WINDOW_TOKENS TASKS`.

DOCS holds JSON lines: text, id, perhaps category, source, license. The executors for Slurm and Jobs take the same
steps, with no fewer files than tasks. A killed task begins again; its shards are whole, and are not scored twice.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

try:
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.readers import JsonlReader
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    # its help needs nothing
    sys.exit(print(__doc__) if {"-h", "--help"} & {*sys.argv} else f"No {error.name}: pip install datatrove orjson")

from longattn_hf import LongAttnScorer, WindowDocuments, on_arrow
from longattn_hf.columns import CATEGORY, LICENSE, SOURCE
from longattn_hf.columns.features import WINDOW_FEATURES
from longattn_hf.files import hash_json
from longattn_hf.pipeline.shards import read_facts, write_shard

PASSED = (CATEGORY, SOURCE, LICENSE)
COLUMNS = pa.schema([*WINDOW_FEATURES.arrow_schema, *((name, pa.string()) for name in PASSED)])


class Windows(PipelineStep):  # noqa: D101 - documents to windows, whose metadata are a window's columns
    def __init__(self, transform: WindowDocuments) -> None:
        self.name, self.type = "Windows", "LONGATTN"
        super().__init__()
        self.transform = transform

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: D102
        for document in data:
            row = {"id": document.id, "text": document.text} | {n: document.metadata.get(n) for n in PASSED}
            for window in on_arrow(self.transform)(pa.Table.from_pylist([row])).cast(COLUMNS).to_pylist():
                yield Document(text=window["text"], id=window["id"], metadata=window)


class Scores(PipelineStep):  # noqa: D101 - windows to shards of scored windows, `size` in each
    def __init__(self, scorer: LongAttnScorer, folder: str, size: int = 256) -> None:
        self.name, self.type = "Scores", "LONGATTN"
        super().__init__()
        self.scorer, self.folder, self.size = scorer, folder, size

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: D102
        windows, number = iter(data), 0
        while shard := list(islice(windows, self.size)):
            path, number = Path(self.folder) / f"{rank:05d}-{number:05d}.parquet", number + 1
            rows = [window.metadata for window in shard]
            fingerprint = hash_json([self.scorer.fingerprint, rows])
            if read_facts(path, fingerprint) is None:
                write_shard(path, on_arrow(self.scorer)(pa.Table.from_pylist(rows, COLUMNS)), fingerprint)
            yield from shard


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage="%(prog)s DOCS OUT MODEL WINDOW_TOKENS TASKS", description=__doc__)
    for name, kind in {"docs": str, "out": str, "model": str, "tokens": int, "tasks": int}.items():
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    cut, scorer = WindowDocuments(tokenizer=given.model, window_tokens=given.tokens), LongAttnScorer(given.model)
    steps = [JsonlReader(given.docs), Windows(cut), Scores(scorer, given.out)]
    LocalPipelineExecutor(steps, given.tasks, 1, f"{given.out}-logs").run()
