"""Opens the document sources that a build's configuration names, as streams with a stable identity."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, IterableDataset, Value, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi

from longattn_hf.hub.client import bounded_timeouts, persist
from longattn_hf.pipeline.config import BuildConfig, SourceConfig, hide_paths
from longattn_hf.pipeline.shards import hash_json
from longattn_hf.pipeline.stages import Source


@dataclass(frozen=True)
class _ReadFields:
    """Reads named fields of a line of JSON, so that the other fields may differ in type from file to file."""

    names: tuple[str, ...]

    def __call__(self, row: Mapping[str, str]) -> dict[str, str | None]:
        document = json.loads(row["text"])
        values = {name: document.get(name) for name in self.names}
        return {n: v if v is None or isinstance(v, str) else json.dumps(v) for n, v in values.items()}


def pin_sources(sources: Sequence[SourceConfig], record: Path) -> list[SourceConfig]:
    """Puts a commit in place of the revision of each data set on the Hub.

    The commits are those that the revisions named when `record` was written: a build that was interrupted goes on with
    the documents it began with, whatever has been pushed since. Of several processes, one calls this first.

    Args:
        sources: The sources as configured; local files and demo documents are left as they are.
        record: A JSON file that keeps the commits; it is written if it is not there.

    Raises:
        ValueError: There is no such data set or revision, no access to it, or its files are named by address.
        ConnectionError: The Hub cannot be reached.
    """
    before = json.loads(record.read_text()) if record.exists() else {}
    kept = dict(before)
    for source in sources:
        files = json.dumps(source.data_files)
        if "hf://" in files:
            raise ValueError(
                f"data_files={files} names files on the Hub by address, which cannot be pinned to a commit: give the "
                "data set's id as `path`, its branch as `revision` and the files inside it as `data_files`."
            )
        if _is_on_the_hub(source) and _name_of(source) not in kept:
            kept[_name_of(source)] = _commit_of(source)
    if kept != before:
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_name(f".{record.name}.tmp")
        temporary.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        temporary.replace(record)
    return [replace(it, revision=kept.get(_name_of(it), it.revision)) for it in sources]


def _is_on_the_hub(source: SourceConfig) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", source.path) is not None and not Path(source.path).exists()


def _name_of(source: SourceConfig) -> str:
    return f"{source.path}@{source.revision or 'main'}"


def _commit_of(source: SourceConfig) -> str:
    api = HfApi()

    def resolve() -> str:
        # a gated data set tells its commit to everybody, and its files to few
        api.auth_check(source.path, repo_type="dataset")
        return api.dataset_info(source.path, revision=source.revision).sha

    with bounded_timeouts(60.0):
        return persist(resolve, what=f"Reading the source {source.path!r}", attempts=4, last_word="Try again later")


def open_source(config: SourceConfig) -> Source:
    """Opens documents that `datasets` can load, without downloading them whole.

    Local files are known by path and time, a data set on the Hub by its commit: that of `revision` now, unless it is
    one already (see `pin_sources`).

    Args:
        config: The source.

    Raises:
        ValueError: There is no such data set, split or column, no access to it, or the column is not text.
        ConnectionError: The Hub cannot be reached.
    """
    if _is_on_the_hub(config) and not re.fullmatch("[0-9a-f]{40}", config.revision or ""):
        config = replace(config, revision=_commit_of(config))
    path, data_files = config.path, config.data_files
    if config.json_lines:
        # the json reader wants one schema for all files; lines of text have one
        path, data_files = "text", _addresses(config)
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


def _addresses(config: SourceConfig) -> list[str]:
    """Where the files of a source of JSON lines are: in a data set at a commit, in a folder, or as they are given."""
    if not config.data_files:
        raise ValueError(f"The source {config.path!r} has json_lines and no data_files: name its files.")
    files = [config.data_files] if isinstance(config.data_files, str) else config.data_files
    if config.path == "json":
        return files
    root = f"hf://datasets/{config.path}@{config.revision}" if _is_on_the_hub(config) else config.path
    return [f"{root}/{file}" for file in files]


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
        constants={"source": config.source or hide_paths(config.path), "license": config.license or "unknown"},
        max_documents=config.max_documents,
    )


def shareable_recipe(config: BuildConfig) -> dict[str, Any]:
    """Returns what others need to build the same: name, model, sources; empty where one of them is a local file."""
    named = [config.model]
    for source in config.sources:
        files = [source.data_files] if isinstance(source.data_files, str) else [*(source.data_files or ())]
        # a format reads files of anywhere, a data set those of its own
        if "/" not in source.path:
            named += [str(file) for file in (*files, source.data_dir) if file and "://" not in str(file)]
        if source.path != "demo":
            named.append(source.path)
    if any(Path(name).exists() or glob(name) for name in named):
        return {}
    sources = [{name: value for name, value in asdict(it).items() if value is not None} for it in config.sources]
    return {"name": config.name, "model": config.model, "impl": config.impl, "sources": sources}
