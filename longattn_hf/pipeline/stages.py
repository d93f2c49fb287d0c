"""The build's two long stages, windowing and scoring, as resumable work on small Parquet shards.

A shard is written to a temporary name, synced and renamed, and carries in its metadata a fingerprint of everything it
was made from. A shard that is there, whole, and carries the fingerprint expected is not made again, so a killed run
goes on where it stopped, with any number of processes, and ends in the same bytes. Processes share only the folder.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value

from longattn_hf.columns import (
    CATEGORY,
    INPUT_IDS,
    LICENSE,
    SKIP_REASON,
    SOURCE,
    TEXT,
    WINDOW_FEATURES,
    is_added,
)
from longattn_hf.files import hash_json
from longattn_hf.method import get_convention
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.heartbeat import Progress
from longattn_hf.pipeline.processes import ALONE, Process
from longattn_hf.pipeline.shards import ROWS_AT_ONCE, ScoredShards, read_facts, write_shard
from longattn_hf.pipeline.sources import Source
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.windows import WindowDocuments


def window_sources(
    sources: Sequence[Source],
    transform: WindowDocuments,
    folder: Path,
    *,
    documents_per_shard: int,
    process: Process = ALONE,
    heartbeats: Path | None = None,
) -> None:
    """Cuts all documents into windows, one Parquet file for each `documents_per_shard` documents of a stream's shard.

    Process r of w takes the stream shards r, r + w, ... of all sources. Where there are more processes than stream
    shards, several read the same one and take turns at its documents.

    Args:
        sources: Where the documents come from.
        transform: The window settings; its text column and category are each source's.
        folder: Receives `<category>/<source>-<stream shard>-<number>.parquet`.
        documents_per_shard: Documents per file.
        process: This process.
        heartbeats: The folder of the processes' signs of life; none if None.

    Raises:
        ValueError: As `WindowDocuments`.
        OSError: As `write_shard`.
    """
    tokenizer = load_tokenizer_once(transform.model_ref)
    made_from = hash_json(
        {
            "transform": asdict(replace(transform, tokenizer="", revision=None, gguf_file=None)),
            "tokenizer": sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "documents_per_shard": documents_per_shard,
        }
    )
    parts = _parts(sources)
    units = [unit for unit in range(len(parts)) if unit % min(process.count, len(parts)) == process.index % len(parts)]
    progress = _progress(heartbeats, process, "windows", len(units), "source parts")
    for unit in units:
        number, part = parts[unit]
        source = sources[number]
        readers = -(-(process.count - unit) // len(parts)) if process.count > len(parts) else 1
        _window_part(
            source,
            part,
            replace(transform, text_column=source.text_column, category=source.category, keep_skipped=True),
            partial(_shard_path, folder, source, number, part),
            hash_json(
                [
                    made_from,
                    source.identity,
                    part,
                    source.stream.num_shards,
                    dict(source.constants or {}),
                    source.max_documents,
                ]
            ),
            documents_per_shard,
            Process(process.index // len(parts) if readers > 1 else 0, readers),
            progress,
        )
        progress.update()
    progress.close()


def _window_part(
    source: Source,
    part: int,
    transform: WindowDocuments,
    path_of: Callable[[int], Path],
    made_from: str,
    documents_per_shard: int,
    reader: Process,
    progress: Progress,
) -> None:
    def shard_at(number: int) -> tuple[Path, str]:
        return path_of(number), hash_json([made_from, number])

    number, facts = 0, read_facts(*shard_at(0))
    while facts is not None:
        if facts["last"]:
            return
        state, number = facts["state"], number + 1
        facts = read_facts(*shard_at(number))
    documents = source.open_part(part)
    if number:
        documents.load_state_dict(state)
    rows = iter(documents)
    first = next(rows, None)
    while first is not None or number == 0:
        batch = [] if first is None else [first, *islice(rows, documents_per_shard - 1)]
        # the position is noted before the next document is read
        state = documents.state_dict()
        first = next(rows, None)
        path, fingerprint = shard_at(number)
        if number % reader.count == reader.index and read_facts(path, fingerprint) is None:
            table, counts = _window_batch(batch, transform, source, documents.features)
            write_shard(path, table, fingerprint, {**counts, "state": state, "last": first is None})
        number += 1
        progress.update(0)


def _window_batch(
    batch: list[dict[str, Any]], transform: WindowDocuments, source: Source, features: Features | None
) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the windows of a batch of documents, and the counts that the report needs of it."""
    names = list(dict.fromkeys(name for document in batch for name in document)) or list(features or {})
    columns: dict[str, list[Any]] = {
        name: [document.get(name) for document in batch] for name in names if not is_added(name)
    }
    columns = {name: [value] * len(batch) for name, value in (source.constants or {}).items()} | columns
    for name in (SOURCE, LICENSE):
        if name in columns:
            columns[name] = [_as_text(value) for value in columns[name]]
    columns.setdefault(transform.text_column, [])
    rows = transform(columns)
    reasons = rows.pop(SKIP_REASON)
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    windows = {name: [values[row] for row in kept] for name, values in rows.items()}
    types = {name: feature for name, feature in (features or {}).items() if name in windows}
    types |= {name: Value("string") for name in (*(source.constants or {}), CATEGORY)} | WINDOW_FEATURES
    inferred = Dataset.from_dict({name: values for name, values in windows.items() if name not in types})
    table = Dataset.from_dict(windows, features=Features({**inferred.features, **types})).with_format("arrow")[:]
    counts = {
        "documents": len(batch),
        "skipped": dict(Counter(reason for reason in reasons if reason)),
        "documents_by_source": _count_by_source(columns, len(batch)),
    }
    return table, counts


def _as_text(value: object) -> str | None:
    """Returns what a document says of its source or licence as the text that columns and reports hold."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return ", ".join(value) or None
    return json.dumps(value, default=str, ensure_ascii=False, sort_keys=True)


def _count_by_source(columns: Mapping[str, list], count: int) -> list[list]:
    unknown = [None] * count
    pairs = Counter(zip(columns.get(SOURCE, unknown), columns.get(LICENSE, unknown), strict=True))
    return sorted([[source, license_, n] for (source, license_), n in pairs.items()], key=str)


def _progress(folder: Path | None, process: Process, stage: str, total: int, unit: str) -> Progress:
    return Progress(folder, process=process.index, processes=process.count, stage=stage, total=total, unit=unit)


def _parts(sources: Sequence[Source]) -> list[tuple[int, int]]:
    return [(number, part) for number, source in enumerate(sources) for part in range(source.stream.num_shards)]


def _shard_path(folder: Path, source: Source, number: int, part: int, shard: int) -> Path:
    return folder / source.category / f"{number:03d}-{part:05d}-{shard:05d}.parquet"


def windowed_shards(sources: Sequence[Source], folder: Path) -> dict[str, dict[str, Any]]:
    """Lists the shards that `window_sources` made in `folder`, in the order of sources and documents.

    Returns:
        What each tells of itself (see `read_facts`), by its name below `folder`.

    Raises:
        ValueError: A shard is missing: windowing has not ended.
    """
    shards = {}
    for number, part in _parts(sources):
        shard, last = 0, False
        while not last:
            path = _shard_path(folder, sources[number], number, part, shard)
            # each process has just checked those of its own
            name, facts = path.relative_to(folder).as_posix(), read_facts(path, check=False)
            if facts is None:
                raise ValueError(f"{name} is missing or damaged: run the same command again to make it.")
            shards[name], shard, last = facts, shard + 1, facts["last"]
    return shards


def score_windows(
    shards: ScoredShards,
    scorer: LongAttnScorer,
    *,
    process: Process = ALONE,
) -> int:
    """Scores every shard of windows; process r of w takes the shards r, r + w, ...

    Args:
        shards: The shards; beside each file of windows comes one of ids and scores, without text.
        scorer: The settings.
        process: This process.

    Returns:
        How many windows this process scored; those of shards found done do not count.

    Raises:
        ValueError: As `LongAttnScorer`, or a shard of windows is damaged.
        OSError: As `write_shard`, or likewise.
    """
    folder, made_from, todo = shards.folder, scorer_fingerprint(scorer), []
    for shard in range(process.index, len(shards.names), process.count):
        fingerprint = shards.score_fingerprint(shard, made_from)
        if read_facts(folder.scores / shards.names[shard], fingerprint) is None:
            todo.append((shard, fingerprint))
    total = int(sum(shards.rows[shard] for shard, _ in todo))
    progress = _progress(folder.heartbeats, process, "scores", total, "windows")
    for shard, fingerprint in todo:
        name = shards.names[shard]
        table = pa.concat_tables(_score_batches(folder.windows / name, scorer, progress), promote_options="default")
        # a changed bit in a page's header can end the batches early without a word
        if len(table) != shards.rows[shard]:
            raise ValueError(f"{folder.windows / name} is damaged: run the same command again to make it anew.")
        write_shard(folder.scores / name, table, fingerprint)
    progress.close()
    return total


def scorer_fingerprint(scorer: LongAttnScorer) -> str:
    """Hashes all that a score depends on: the tensors read, the settings, not where and in what batches it runs."""
    settings = {k: v for k, v in asdict(scorer).items() if k not in ("model", "gguf_file", "device", "batch_tokens")}
    return hash_json([settings, scorer.load_layer().identity])


def _score_batches(path: Path, scorer: LongAttnScorer, progress: Progress) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path, page_checksum_verification=True)
    text = {TEXT} if get_convention(scorer.convention).encodes_text_again else set()
    kept = [name for name in file.schema_arrow.names if name not in (TEXT, INPUT_IDS)]
    yield file.schema_arrow.empty_table().select(kept)
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*kept, INPUT_IDS, *text]):
        columns: dict[str, Any] = {INPUT_IDS: [ids.values.to_numpy() for ids in batch.column(INPUT_IDS)]}
        if text:
            columns[TEXT] = batch.column(TEXT).to_pylist()
        try:
            scored = scorer(columns)
        except ValueError as error:
            raise ValueError(
                f"While scoring {path.name}, windows {batch.column('id').to_pylist()}: {error}"
            ) from error
        table = pa.Table.from_batches([batch]).select(kept)
        for name, values in scored.items():
            table = table.append_column(name, pa.array(values, pa.string() if name == SKIP_REASON else None))
        progress.update(len(batch))
        yield table
