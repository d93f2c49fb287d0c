"""Rows of any Parquet or JSON-lines files, and the notes that a scored file carries about itself."""

import glob
import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset
from datasets.data_files import resolve_pattern
from datasets.exceptions import DatasetGenerationError

from longattn_hf.files import as_pattern, is_address, replacing
from longattn_hf.pipeline.scored_with import NOTES, notes_in
from longattn_hf.pipeline.store import Store, naming

#: Files by the ends of their names, as `datasets` calls their formats; a compressed file of lines ends in one more.
_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".ndjson": "json"}
_COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")


def read_rows(files: Sequence[str]) -> Dataset:
    """Reads Parquet or JSON-lines files, compressed ones too, as one dataset.

    Raises:
        ValueError: No file is given, one is not there or cannot be read, their formats differ, or none has a row.
    """
    if not files:
        raise ValueError("No files are given: name Parquet or JSON-lines files.")
    formats = {_format_of(file) for file in files}
    if len(formats) > 1:
        raise ValueError(f"{', '.join(files)} are of several formats; give files of one: {', '.join(_FORMATS)}.")
    try:
        with _naming(files):
            # readers of both formats end in errors of their own at files without a row
            full = [as_pattern(file) for file in find_files(files) if _has_rows(file)]
            if not full:
                raise ValueError(f"There is no row in {', '.join(files)}.")
            return load_dataset(formats.pop(), data_files=full, split="train")
    except FileNotFoundError as error:
        raise ValueError(f"There is no such file: {error}") from error
    except (DatasetGenerationError, pa.ArrowException, OSError) as error:
        raise ValueError(f"{', '.join(files)} cannot be read: {error.__cause__ or error}") from error


def find_files(files: Sequence[str]) -> list[str]:
    """Returns names of files, those that a pattern stands for in its place; raises FileNotFoundError for none."""
    found = list[str]()
    for file in files:
        is_name = os.path.exists(file) or not glob.has_magic(file)
        found += [file] if is_name else resolve_pattern(as_pattern(file), base_path=os.getcwd())
    return found


def _has_rows(file: str) -> bool:
    """Says whether a file has more than a header, blank lines or an empty list."""
    with fsspec.open(file, compression="infer") as opened:
        if _format_of(file) == "parquet":
            return pq.read_metadata(opened).num_rows > 0
        return any(part.strip(b" \t\r\n[]") for part in iter(partial(opened.read, 2**16), b""))


def _naming(files: Sequence[str]) -> AbstractContextManager[None]:
    """What a store's client raises is no OSError, which all else is."""
    return naming(", ".join(files)) if any(map(is_address, files)) else nullcontext()


def is_table(file: str) -> bool:
    """Says whether a file's name is that of Parquet or JSON lines."""
    suffixes = [suffix for suffix in Path(file).suffixes if suffix not in _COMPRESSIONS]
    return bool(suffixes) and suffixes[-1] in _FORMATS


def _format_of(file: str) -> str:
    if is_table(file):
        return next(_FORMATS[suffix] for suffix in reversed(Path(file).suffixes) if suffix in _FORMATS)
    raise ValueError(f"{file} is no file of a known kind: its name must end in {', '.join(_FORMATS)}.")


def stem_of(file: str) -> str:
    """Returns a file's name without its folder and the end that says its format: run.a of out/run.a.jsonl.gz."""
    path = Path(file.rpartition("/")[2])
    if path.suffix in _COMPRESSIONS and Path(path.stem).suffix in _FORMATS:
        path = Path(path.stem)
    return path.stem


def refuse_input(output: str, files: Sequence[str]) -> None:
    """Checks that what is to be written is none of the files that are read; raises ValueError."""
    # what a pattern means in a store is nothing to ask before the work
    for file in (name for given in files for name in ([given] if is_address(given) else find_files([given]))):
        if output == file or (os.path.exists(output) and os.path.exists(file) and os.path.samefile(output, file)):
            raise ValueError(f"{output} is a file that is read, and would be lost; name another with -o.")


def check_output(output: str, files: Sequence[str]) -> str:
    """Returns where rows of files are to be written, here or in a store, before the work that leads to them.

    Raises:
        ValueError: The path does not end in .parquet, is one of the files, leads into what is no folder, or into no
            store.
    """
    refuse_input(output, files)
    path = Path(output)
    if path.suffix != ".parquet":
        raise ValueError(f"{output} is to be written as Parquet; let its name end in .parquet.")
    if is_address(output):
        # refused where its client is not installed
        Store(output)
    elif path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise ValueError(f"{path} cannot be written: {path if path.is_dir() else path.parent} is in the way.")
    return output


def write_rows(rows: Dataset, output: str, notes: dict[str, Any]) -> None:
    """Writes rows as one Parquet file, whole or not at all, with notes about them in its metadata.

    Raises:
        OSError: It cannot be written.
    """
    if is_address(output):
        parent, _, name = output.rpartition("/")
        with TemporaryDirectory() as folder:
            write_rows(rows, f"{folder}/{name}", notes)
            return Store(parent).send(Path(folder), [name])
    schema = rows.features.arrow_schema
    schema = schema.with_metadata({**(schema.metadata or {}), NOTES: json.dumps(notes)})
    with replacing(Path(output)) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in rows.with_format("arrow").iter(1000):
            writer.write_table(batch.cast(schema))


def read_notes(files: Sequence[str]) -> dict[str, Any]:
    """Returns the notes of the first file; none for a file that another program wrote."""
    if _format_of(files[0]) != "parquet":
        return {}
    try:
        with _naming(files[:1]), fsspec.open(files[0]) as file:
            schema = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{files[0]} cannot be read: {error}") from error
    return notes_in(schema)
