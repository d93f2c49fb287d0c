"""The first of a build's two long stages, windowing, as resumable work on small Parquet shards.

A shard is written to a temporary name, synced and renamed, and carries in its metadata a fingerprint of everything it
was made from. A shard that is there, whole, and carries the fingerprint expected is not made again, so a killed run
goes on where it stopped, with any number of processes, and ends in the same bytes. Processes share only the folder.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Value

from longattn_hf.columns import (
    CATEGORY,
    LICENSE,
    SKIP_REASON,
    SOURCE,
    WINDOW_FEATURES,
    is_added,
)
from longattn_hf.files import hash_json
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.heartbeat import Progress
from longattn_hf.pipeline.processes import ALONE, Process
from longattn_hf.pipeline.reading import UNREADABLE, rows_of
from longattn_hf.pipeline.shards import read_facts, write_shard
from longattn_hf.pipeline.sources import Source
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
            # which tokenizer it is stands below
            "transform": transform.settings | {"tokenizer": "", "revision": None, "gguf_file": None},
            "tokenizer": sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "documents_per_shard": documents_per_shard,
        }
    )
    parts = _parts(sources)
    units = [unit for unit in range(len(parts)) if unit % min(process.count, len(parts)) == process.index % len(parts)]
    progress = show_progress(heartbeats, process, "windows", len(units), "source parts")
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
    skip = transform.on_error == "skip"
    rows = rows_of(documents, where=source.name_part(part), start=number * documents_per_shard, skip=skip)
    first = next(rows, None)
    while first is not None or number == 0:
        batch = [] if first is None else [first, *islice(rows, documents_per_shard - 1)]
        # the position is noted before the next document is read
        state = documents.state_dict()
        first = next(rows, None)
        path, fingerprint = shard_at(number)
        if number % reader.count == reader.index and read_facts(path, fingerprint) is None:
            where = source.name_part(part), number * documents_per_shard
            table, counts = _window_batch(batch, transform, source, where)
            write_shard(path, table, fingerprint, {**counts, "state": state, "last": first is None})
        number += 1
        progress.update(0)


def _window_batch(
    batch: list[dict[str, Any]], transform: WindowDocuments, source: Source, where: tuple[str, int]
) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the windows of a batch of documents, and the counts that the report needs of it.

    `where` names the file and the number of the first document in it.
    """
    known = dict(source.features or {})
    names = [n for n in dict.fromkeys([*known, *(n for document in batch for n in document)]) if not is_added(n)]
    columns: dict[str, list[Any]] = {name: [document.get(name) for document in batch] for name in names}
    reasons = columns.pop(UNREADABLE, [None] * len(batch))
    columns = {name: [value] * len(batch) for name, value in (source.constants or {}).items()} | columns
    columns.setdefault(transform.text_column, [None] * len(batch))
    types: dict[str, Any] = {name: Value("string") for name in (*(source.constants or {}), CATEGORY)}
    for name in [name for name in columns if name not in (*WINDOW_FEATURES, transform.text_column, CATEGORY)]:
        types.setdefault(name, known.get(name, Value("null")))
        if name in (SOURCE, LICENSE) or types[name] == Value("null"):
            # what a column's first rows do not tell is kept as text, the same in all batches
            types[name], columns[name] = Value("string"), [_as_text(value) for value in columns[name]]
        columns[name], reasons = _fit(name, columns[name], types[name], reasons)
    columns[SKIP_REASON] = reasons
    if transform.on_error == "raise":
        for row, reason in enumerate(transform.find_reasons(columns)):
            if reason:
                raise ValueError(
                    f"{where[0]}, row {where[1] + row + 1}, cannot be read as a document: {reason}. Mend or drop such "
                    "rows, or pass on_error='skip' to leave them out with a count."
                )
    rows = transform(columns)
    reasons = rows.pop(SKIP_REASON)
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    windows = {name: [values[row] for row in kept] for name, values in rows.items()}
    features = Features({name: WINDOW_FEATURES.get(name) or types[name] for name in windows})
    table = Dataset.from_dict(windows, features=features).with_format("arrow")[:]
    counts = {
        "documents": len(batch),
        "skipped": dict(Counter(reason for reason in reasons if reason)),
        "documents_by_source": _count_by_source(columns, len(batch)),
    }
    return table, counts


def _fit(name: str, values: list[Any], feature: Any, reasons: list[str | None]) -> tuple[list[Any], list[str | None]]:
    """Takes out the values that are not of a column's type, and gives their rows that reason."""

    def fits(some: list[Any]) -> bool:
        try:
            Dataset.from_dict({name: some}, features=Features({name: feature}))
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, pa.ArrowException):
            return False
        return True

    if fits(values):
        return values, reasons
    good = [fits([value]) for value in values]
    wrong = f"column {name!r} of another type"
    return (
        [value if fit else None for value, fit in zip(values, good, strict=True)],
        [reason or (None if fit else wrong) for reason, fit in zip(reasons, good, strict=True)],
    )


def _as_text(value: object) -> str | None:
    """Returns what a document says of its source or licence as the text that columns and reports hold."""
    if value is None or isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if value else None
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return ", ".join(value) or None
    return json.dumps(value, default=str, ensure_ascii=False, sort_keys=True)


def _count_by_source(columns: Mapping[str, list], count: int) -> list[list]:
    unknown = [None] * count
    pairs = Counter(zip(columns.get(SOURCE, unknown), columns.get(LICENSE, unknown), strict=True))
    return sorted([[source, license_, n] for (source, license_), n in pairs.items()], key=str)


def show_progress(folder: Path | None, process: Process, stage: str, total: int, unit: str) -> Progress:
    """Begins to show how far this process is in a stage; `folder` is that of its sign of life."""
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
