"""Opens the document sources that a build's configuration names, as streams with a stable identity."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetBuilder, Features, IterableDataset, LargeList, List, Value
from datasets.exceptions import DatasetNotFoundError, DatasetsError

from longattn_hf.columns import CATEGORY, LICENSE, SOURCE, TEXT, is_added
from longattn_hf.files import hash_json
from longattn_hf.hub.client import httpx
from longattn_hf.pipeline.reading import UNREADABLE, JoinPages, JsonLines
from longattn_hf.pipeline.source_config import SourceConfig, hide_paths
from longattn_hf.pipeline.source_files import identify_files, load_builder, warn_of_left_out
from longattn_hf.pipeline.source_pins import commit_of, is_on_the_hub, is_pinned, name_of, pin_sources, read_pins
from longattn_hf.pipeline.source_types import agree

logger = logging.getLogger(__name__)

#: The path of the documents that installed packages bring; see `demo_corpus`.
DEMO = "demo"
_UNOPENED = (DatasetNotFoundError, FileNotFoundError, ValueError, StopIteration, httpx.RequestError)
_TEXT = (Value("string"), Value("large_string"), Value("string_view"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents of one category, as a stream that can be read in parts.

    Attributes:
        category: The category of its documents.
        stream: The documents; each of its shards (a file, as a rule) is read by one process or more.
        identity: Names the documents: equal for equal documents, another for others (a commit, a hash).
        text_column: The column that holds the documents.
        constants: Columns with one value for all documents, where the documents do not bring their own.
        max_documents: Read no more than this from each of the stream's shards.
        features: The types of columns; None where they are not known.
        types: What columns are kept as, by name; plain ones if None.
        files: The names of the stream's shards, where these are files.
    """

    category: str
    stream: IterableDataset
    identity: str
    text_column: str = TEXT
    constants: Mapping[str, str] | None = None
    max_documents: int | None = None
    features: Features | None = None
    types: Mapping[str, Any] | None = None
    files: tuple[str, ...] = ()

    @property
    def kept_as(self) -> Mapping[str, Any]:
        """The types that its columns are kept as."""
        return agree([self.features]) if self.types is None else self.types

    def open_part(self, part: int) -> IterableDataset:
        """Opens one shard of the stream, or its first `max_documents`."""
        stream, count = self.stream, self.stream.num_shards
        if count > 1:
            # taking a shard costs as much as there are: those of a block are taken from the block
            size, longer = divmod(count, isqrt(count))
            block = max(part // (size + 1), (part - longer) // size)
            stream = _take_block(stream, block)
            stream = stream.shard(stream.num_shards, part - block * size - min(block, longer))
        return stream if self.max_documents is None else stream.take(self.max_documents)

    def name_part(self, part: int) -> str:
        """Names a shard of the stream for messages."""
        return self.files[part] if part < len(self.files) else f"Part {part} of {self.category}"


@lru_cache(maxsize=1)
def _take_block(stream: IterableDataset, block: int) -> IterableDataset:
    return stream.shard(isqrt(stream.num_shards), block)


def open_source(config: SourceConfig) -> Source:
    """Opens documents that `datasets` can load, without downloading them whole.

    Local files are known by path, time and size, a dataset on the Hub by its commit: that of `revision` now, unless
    it is one already (see `pin_sources`).

    Args:
        config: The source.

    Raises:
        ValueError: There is no such dataset, split or column, no access to it, or the column is not text.
        ConnectionError: The Hub cannot be reached.
    """
    if is_on_the_hub(config) and not is_pinned(config):
        config = replace(config, revision=commit_of(config))
    try:
        builder = load_builder(config)
        warn_of_left_out(builder, config)
        names, identity = identify_files(builder, config)
        stream, features = _stream_of(builder, config, names)
    except _UNOPENED as error:
        reason = str(error) or "datasets finds no files by these names"
        raise ValueError(f"The source {config.path!r} cannot be opened: {reason}") from error
    return _as_source(config, stream, features, identity, names if len(names) == stream.num_shards else ())


def _stream_of(
    builder: DatasetBuilder, config: SourceConfig, names: Sequence[str]
) -> tuple[IterableDataset, Features | None]:
    columns = tuple(dict.fromkeys((config.text_column, *(config.columns or ()))))
    if config.json_lines:
        stream = JsonLines(config.text_column, columns, config.join).open(names, config.path)
        return stream, stream.features
    try:
        stream = builder.as_streaming_dataset(config.split)
        return stream, stream.features or _infer_features(stream)
    except StopIteration:
        # so the readers of JSON and CSV end at files without a row
        features = Features(dict.fromkeys(columns, Value("string")))
        return IterableDataset.from_generator(_read_nothing, features=features), features


def _read_nothing() -> Iterator[dict[str, str]]:
    yield from ()


def identify_sources(sources: Sequence[SourceConfig], record: Path) -> list[str] | None:
    """Names the documents that `open_sources` would open, without opening them; None where that takes a network."""
    pins, identities = read_pins(record), []
    for source in sources:
        config = replace(source, revision=pins.get(name_of(source), source.revision))
        if config.path == DEMO:
            from longattn_hf.pipeline.demo_corpus import demo_versions

            identities.append(hash_json(demo_versions()))
        elif not is_on_the_hub(config):
            try:
                identities.append(identify_files(load_builder(config), config)[1])
            except _UNOPENED:
                return None
        elif is_pinned(config):
            identities.append(f"{config.path}@{config.revision}")
        else:
            return None
    return identities


def open_documents(config: SourceConfig, documents: Iterable[Mapping[str, Any]]) -> Source:
    """Opens documents that are at hand, such as the embedded demo's."""
    rows = [dict(document) for document in documents]
    stream = Dataset.from_list(rows).to_iterable_dataset(num_shards=max(1, len(rows)))
    return _as_source(config, stream, stream.features, hash_json(rows))


def _as_source(
    config: SourceConfig,
    stream: IterableDataset,
    features: Features | None,
    identity: str,
    files: tuple[str, ...] = (),
) -> Source:
    if features is not None:
        if config.text_column not in features:
            raise ValueError(
                f"The source {config.path!r} has no column {config.text_column!r}; it has "
                f"{', '.join(features) or 'none'}. Name the text's column with text_column."
            )
        feature = features[config.text_column]
        pages = isinstance(feature, List | LargeList) and feature.feature in _TEXT
        if pages and config.join is not None:
            joined = {config.text_column: Value("string"), UNREADABLE: Value("string")}
            features = Features(features | joined)
            stream = stream.map(
                JoinPages(config.text_column, config.join), features=features if stream.features else None
            )
        elif pages:
            raise ValueError(
                f"Column {config.text_column!r} of {config.path!r} is a list of texts: say with join what to put "
                "between them, such as two line breaks."
            )
        # a column whose first rows are all missing may hold anything
        elif feature not in (*_TEXT, Value("null")):
            raise ValueError(f"Column {config.text_column!r} of {config.path!r} is {feature}, not text.")
    if taken := [name for name in features or () if is_added(name)]:
        logger.warning("%s: %s left out, since the build adds columns of these names.", config.path, ", ".join(taken))
    if config.columns is not None:
        if missing := [name for name in config.columns if features is not None and name not in features]:
            raise ValueError(
                f"The source {config.path!r} has no column {', '.join(map(repr, missing))} (columns); it has "
                f"{', '.join(features or ())}."
            )
        read = [name for name in (UNREADABLE,) if name in (features or ())]
        stream = stream.select_columns(list(dict.fromkeys([config.text_column, *config.columns, *read])))
    return Source(
        category=config.category,
        stream=stream,
        identity=hash_json([identity, config.columns, config.join]),
        text_column=config.text_column,
        constants={SOURCE: config.source or hide_paths(config.path), LICENSE: config.license or "unknown"},
        max_documents=config.max_documents,
        features=features,
        files=files,
    )


def _infer_features(stream: IterableDataset) -> Features | None:
    """Returns the types that the first rows have; None if they cannot be read, which is said in their turn."""
    try:
        return stream._resolve_features().features
    except (ValueError, TypeError, pa.ArrowException, DatasetsError):
        return None


def open_sources(sources: Sequence[SourceConfig], record: Path) -> list[Source]:
    """Opens all sources of a build, as `pin_sources` pinned them; the embedded demo's documents are read once."""
    demo: list[dict[str, Any]] = []
    if any(source.path == DEMO for source in sources):
        from longattn_hf.pipeline.demo_corpus import demo_documents

        demo = list(demo_documents())

    def open_one(source: SourceConfig) -> Source:
        if source.path != DEMO:
            return open_source(source)
        return open_documents(source, [row for row in demo if row[CATEGORY] == source.category])

    opened = [open_one(source) for source in pin_sources(sources, record)]
    types = agree([source.features for source in opened])
    return [replace(source, types=types) for source in opened]
