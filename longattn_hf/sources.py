"""Opens the document sources that a build's configuration names, as streams with a stable identity."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, IterableDataset, Value, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError

from longattn_hf.config import SourceConfig
from longattn_hf.sharding import Source
from longattn_hf.shards import hash_json


@dataclass(frozen=True)
class _ReadFields:
    """Reads named fields of a line of JSON, so that the other fields may differ in type from file to file."""

    names: tuple[str, ...]

    def __call__(self, row: Mapping[str, str]) -> dict[str, str | None]:
        document = json.loads(row["text"])
        values = {name: document.get(name) for name in self.names}
        return {n: v if v is None or isinstance(v, str) else json.dumps(v) for n, v in values.items()}


def open_source(config: SourceConfig) -> Source:
    """Opens documents that `datasets` can load, without downloading them whole.

    A Hub data set is pinned to the commit that its revision names now; local files are known by path and time.

    Args:
        config: The source.

    Raises:
        ValueError: There is no such data set, split or column, or the column is not text.
    """
    path, data_files = config.path, config.data_files
    if config.json_lines:
        # the json reader wants one schema for all files; lines of text have one
        path, data_files = "text", f"hf://datasets/{path}@{config.revision or 'main'}/{data_files}"
        if config.path == "json":
            data_files = config.data_files
    try:
        builder = load_dataset_builder(
            path, config.name, data_files=data_files, data_dir=config.data_dir, revision=config.revision
        )
        stream = builder.as_streaming_dataset(config.split)
    except (DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        raise ValueError(f"The source {config.path!r} cannot be opened: {error}") from error
    files = (builder.config.data_files or {}).get(config.split)
    identity = hash_json(
        [builder.hash, config.name, config.split, [str(file) for file in files or []], files and files.origin_metadata]
    )
    if config.json_lines:
        names = (config.text_column, *(config.columns or ()))
        features = Features(dict.fromkeys(names, Value("string")))
        stream = stream.map(_ReadFields(names), remove_columns=["text"], features=features)
    return _as_source(config, stream, identity)


def open_documents(config: SourceConfig, documents: Iterable[Mapping[str, Any]]) -> Source:
    """Opens documents that are at hand, such as the embedded demo's."""
    rows = [dict(document) for document in documents]
    stream = Dataset.from_list(rows).to_iterable_dataset(num_shards=max(1, len(rows)))
    return _as_source(config, stream, hash_json(rows))


def _as_source(config: SourceConfig, stream: IterableDataset, identity: str) -> Source:
    if stream.features is not None:
        if config.text_column not in stream.features:
            raise ValueError(
                f"The source {config.path!r} has no column {config.text_column!r}; it has "
                f"{', '.join(stream.features)}. Name the text's column with text_column."
            )
        feature = stream.features[config.text_column]
        if feature not in (Value("string"), Value("large_string")):
            raise ValueError(f"Column {config.text_column!r} of {config.path!r} is {feature}, not text.")
    if config.columns is not None:
        stream = stream.select_columns(list(dict.fromkeys([config.text_column, *config.columns])))
    return Source(
        category=config.category,
        stream=stream,
        identity=hash_json([identity, config.columns]),
        text_column=config.text_column,
        constants={"source": config.source or config.path, "license": config.license or "unknown"},
        max_documents=config.max_documents,
    )
