"""How `datasets` finds and reads a source's files: documents and not lines, each file once, nothing by surprise."""

import logging
import os
from glob import glob
from pathlib import Path

from datasets import DatasetBuilder, load_dataset_builder
from datasets.data_files import DataFilesList
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from datasets.packaged_modules.csv.csv import CsvConfig
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.packaged_modules.text.text import TextConfig

from longattn_hf.columns import ID
from longattn_hf.files import hash_json
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.source_pins import is_on_the_hub

logger = logging.getLogger(__name__)

# of documents that may be long; by itself the reader takes a row group at once, and fails at one without rows
_ROWS_AT_ONCE = 128


def load_builder(config: SourceConfig) -> DatasetBuilder:
    """Returns what reads a source's files.

    Raises:
        ValueError: It is a format without files, which would read all that lies in the working directory.
        FileNotFoundError: There are no such files.
        datasets.exceptions.DatasetNotFoundError: There is no such dataset.
    """
    if config.path in _PACKAGED_DATASETS_MODULES and not (config.data_files or config.data_dir):
        raise ValueError(
            f"path={config.path!r} is a format, and nothing says which files to read: name them with data_files, or "
            f"give a folder of this name as ./{config.path}."
        )
    builder = load_dataset_builder(
        # the json reader wants one schema for all files; lines of text have one
        "text" if config.json_lines else config.path,
        config.name,
        data_files=_addresses(config) if config.json_lines else config.patterns,
        data_dir=config.data_dir,
        revision=config.revision,
    )
    if config.data_files and not any((builder.config.data_files or {}).values()):
        raise FileNotFoundError(f"datasets finds no files by the names {config.data_files}.")
    _settle(builder)
    _take_each_file_once(builder)
    return builder


def identify_files(builder: DatasetBuilder, config: SourceConfig) -> tuple[tuple[str, ...], str]:
    """Returns the names of a source's files, and what names their content: of local ones the times and sizes."""
    files = (builder.config.data_files or {}).get(config.split)
    names = tuple(str(file) for file in files or ())
    # a copy may have the time of what it was copied over
    sizes = [os.path.getsize(name) if os.path.isfile(name) else None for name in names]
    known = [builder.hash, config.name, config.split, [*names], files and files.origin_metadata]
    return names, hash_json([*known, sizes] if any(size is not None for size in sizes) else known)


def _settle(builder: DatasetBuilder) -> None:
    """Sets what the formats' own defaults would do otherwise to documents, in folders and datasets of them too."""
    options = builder.config
    if isinstance(options, TextConfig) and options.sample_by == "line":
        # a file of text is a document, and not each of its lines
        options.sample_by = "document"
    elif isinstance(options, ParquetConfig) and options.batch_size is None:
        options.batch_size = _ROWS_AT_ONCE
    elif isinstance(options, CsvConfig) and options.converters is None:
        # 007 is no number where it names a document
        options.converters = {ID: _as_it_stands}


def _as_it_stands(cell: str) -> str | None:
    return cell or None


def _addresses(config: SourceConfig) -> list[str] | None:
    """Where the files of a source of JSON lines are: in a dataset at a commit, in a folder, or as they are given."""
    files = config.patterns
    if files is None or config.path == "json":
        return files
    root = f"hf://datasets/{config.path}@{config.revision}" if is_on_the_hub(config) else config.path
    return [file if Path(file).is_absolute() else f"{root}/{file}" for file in files]


def _take_each_file_once(builder: DatasetBuilder) -> None:
    """Drops what a second pattern names again."""
    for split, files in (builder.config.data_files or {}).items():
        metadata = dict(zip(files, files.origin_metadata, strict=True))
        if len(metadata) < len(files):
            builder.config.data_files[split] = DataFilesList([*metadata], [*metadata.values()])


def warn_of_left_out(builder: DatasetBuilder, config: SourceConfig) -> None:
    """Says which local files `datasets` leaves out, by their names, of what a source's patterns match."""
    if config.json_lines or config.patterns is None:
        return
    root = Path("" if config.path in _PACKAGED_DATASETS_MODULES else config.path) / (config.data_dir or "")
    found = {
        os.path.abspath(name)
        for pattern in config.patterns
        if "://" not in pattern and "::" not in pattern
        for name in glob(str(root.expanduser() / pattern), recursive=True)
        if os.path.isfile(name)
    }
    taken = {os.path.abspath(str(name)) for files in (builder.config.data_files or {}).values() for name in files}
    if left_out := sorted(found - taken):
        shown = ", ".join(left_out[:3]) + (f" and {len(left_out) - 3} more" if len(left_out) > 3 else "")
        logger.warning(
            "%s: datasets takes %s for no data, by the name, and leaves it out; name what is to be read without a "
            "pattern in its last part.",
            config.path,
            shown,
        )
