"""The first of a build's two long stages, windowing, as resumable work on small Parquet shards.

A shard is written to a temporary name, synced and renamed, and carries in its metadata a fingerprint of everything it
was made from. A shard that is there, whole, and carries the fingerprint expected is not made again, so a killed run
goes on where it stopped, with any number of processes, and ends in the same bytes. Processes share only the folder.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, Value

from longattn_hf.columns import CATEGORY, LICENSE, SKIP_REASON, SOURCE, is_added
from longattn_hf.columns.features import WINDOW_FEATURES
from longattn_hf.files import hash_json
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.processes import ALONE, Process
from longattn_hf.pipeline.reading import UNREADABLE, rows_of
from longattn_hf.pipeline.shards import read_facts, write_shard
from longattn_hf.pipeline.source_types import as_text, convert, differ
from longattn_hf.pipeline.sources import Source
from longattn_hf.windows import WindowDocuments


def window_sources(
    sources: Sequence[Source],
    transform: WindowDocuments,
    folder: BuildFolder,
    *,
    documents_per_shard: int,
    process: Process = ALONE,
) -> None:
    """Cuts all documents into windows, or this process's share of them; see `Windowing`.

    Raises:
        ValueError: As `WindowDocuments`.
        OSError: As `write_shard`.
    """
    process.run(Windowing(tuple(sources), transform, folder, documents_per_shard))


@dataclass(frozen=True)
class _Part:
    """A unit of windowing: the documents of a stream's shard whose file's number is `turn` modulo `turns`."""

    source: int
    number: int
    turn: int
    turns: int
    made_from: str


@dataclass(frozen=True)
class Windowing:
    """Cuts documents into windows, one Parquet file for each `documents_per_shard` documents of a stream's shard.

    A unit is a shard of a source's stream. Where there are more workers than these, several units read the same one
    and take turns at its documents.

    Attributes:
        sources: Where the documents come from.
        transform: The window settings; its text column and category are each source's.
        folder: Its `windows` receive `<category>/<source>-<stream shard>-<number>.parquet`.
        documents_per_shard: Documents per file.
    """

    name: ClassVar[str] = "windows"
    counted: ClassVar[str] = "source parts"
    runs_models: ClassVar[bool] = False

    sources: tuple[Source, ...]
    transform: WindowDocuments
    folder: BuildFolder
    documents_per_shard: int

    def made_with(self) -> dict[str, str]:
        """Names the settings and the tokenizer."""
        tokenizer = load_tokenizer_once(self.transform.model_ref)
        settings = {
            # which tokenizer it is stands below
            "transform": self.transform.settings | {"tokenizer": "", "revision": None, "gguf_file": None},
            "tokenizer": sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "documents_per_shard": self.documents_per_shard,
        }
        return {"the tokenizer": hash_json(settings)}

    def units(self, workers: int, share: slice) -> list[_Part]:
        """Lists a share of the units; those that are done already find it out for themselves."""
        parts, (made_from,) = _parts(self.sources), self.made_with().values()
        units = []
        for unit in range(max(workers, len(parts)))[share]:
            number, part = parts[unit % len(parts)]
            source = self.sources[number]
            identity = [
                made_from,
                source.identity,
                part,
                source.stream.num_shards,
                dict(source.constants or {}),
                source.max_documents,
            ]
            kept_otherwise = differ(source.features, source.kept_as)
            filled = sorted({*(source.features or ())} & {SOURCE, LICENSE})
            identity += [kept_otherwise, filled] if kept_otherwise or filled else []
            turns = max(1, -(-(workers - unit % len(parts)) // len(parts)))
            units.append(_Part(number, part, unit // len(parts), turns, hash_json(identity)))
        return units

    def size(self, unit: _Part) -> int:
        """A unit is one."""
        return 1

    def do(self, unit: _Part, tick: Callable[[int], object]) -> None:
        """Cuts the documents of a part that are not cut yet."""
        source = self.sources[unit.source]

        def shard_at(number: int) -> tuple[Path, str]:
            path = _shard_path(self.folder.windows, source, unit.source, unit.number, number)
            return path, hash_json([unit.made_from, number])

        number, facts = 0, read_facts(*shard_at(0))
        while facts is not None and not facts["last"]:
            state, number = facts["state"], number + 1
            facts = read_facts(*shard_at(number))
        if facts is None:
            documents = source.open_part(unit.number)
            if number:
                documents.load_state_dict(state)
            self._window_rest(unit, documents, number, shard_at, tick)
        tick(1)

    def _window_rest(
        self,
        unit: _Part,
        documents: IterableDataset,
        number: int,
        shard_at: Callable[[int], tuple[Path, str]],
        tick: Callable[[int], object],
    ) -> None:
        """Cuts the documents of a part from the shard with this number on."""
        source, size = self.sources[unit.source], self.documents_per_shard
        transform = replace(
            self.transform, text_column=source.text_column, category=source.category, keep_skipped=True
        )
        name = source.name_part(unit.number)
        rows = rows_of(documents, where=name, start=number * size, skip=transform.on_error == "skip")
        first = next(rows, None)
        while first is not None or number == 0:
            batch = [] if first is None else [first, *islice(rows, size - 1)]
            # the position is noted before the next document is read
            state = documents.state_dict()
            first = next(rows, None)
            path, fingerprint = shard_at(number)
            if number % unit.turns == unit.turn and read_facts(path, fingerprint) is None:
                table, counts = _window_batch(batch, transform, source, (name, number * size))
                tick(0)
                write_shard(path, table, fingerprint, {**counts, "state": state, "last": first is None})
            number += 1
            tick(0)


def _window_batch(
    batch: list[dict[str, Any]], transform: WindowDocuments, source: Source, where: tuple[str, int]
) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the windows of a batch of documents, and the counts that the report needs of it.

    `where` names the file and the number of the first document in it.
    """
    known, kept_as = dict(source.features or {}), source.kept_as
    names = [n for n in dict.fromkeys([*known, *(n for document in batch for n in document)]) if not is_added(n)]
    columns: dict[str, list[Any]] = {name: [document.get(name) for document in batch] for name in names}
    reasons = columns.pop(UNREADABLE, [None] * len(batch))
    constants = source.constants or {}
    columns = {name: [None] * len(batch) for name in constants} | columns
    columns.setdefault(transform.text_column, [None] * len(batch))
    types: dict[str, Any] = {name: Value("string") for name in (*constants, SOURCE, LICENSE, CATEGORY)}
    for name in [name for name in columns if name not in (*WINDOW_FEATURES, transform.text_column, CATEGORY)]:
        # what a column's first rows do not tell is kept as text, the same in all batches
        types.setdefault(name, kept_as.get(name, Value("string")))
        columns[name] = convert(columns[name], known.get(name), types[name])
        if name in (*constants, SOURCE, LICENSE):
            columns[name] = [constants.get(name) if not value else as_text(value) for value in columns[name]]
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


def _count_by_source(columns: Mapping[str, list], count: int) -> list[list]:
    unknown = [None] * count
    pairs = Counter(zip(columns.get(SOURCE, unknown), columns.get(LICENSE, unknown), strict=True))
    return sorted([[source, license_, n] for (source, license_), n in pairs.items()], key=str)


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
