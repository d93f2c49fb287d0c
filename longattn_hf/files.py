"""Files that are there whole or not at all, and hashes of plain values."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from datasets import Dataset


@contextmanager
def replacing(path: Path, *, hint: str = "Make room, or make the folder writable") -> Iterator[BinaryIO]:
    """Opens a file that takes the place of `path` when it is complete and on the disk, and goes when it is not.

    Args:
        path: The file; its folder is made.
        hint: Said where it cannot be written: what to do.

    Raises:
        OSError: The disk is full or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"Cannot write {path}: {error.strerror or error}. {hint}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def move_file(source: Path, target: Path) -> None:
    """Moves a file over another, whole or not at all, from another disk too; raises as `replacing`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as file, open(source, "rb") as original:
            shutil.copyfileobj(original, file)
        source.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, whole or not at all; raises as `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: object) -> None:
    """Writes plain values as indented JSON, whole or not at all; raises as `replacing`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_parquet(dataset: Dataset, path: Path, *, hint: str) -> None:
    """Writes a dataset as one Parquet file, with `datasets`' row groups, page index and metadata.

    Takes `path` and `hint` as `replacing`, and raises as it does.
    """
    # by way of memory: where a disk is full, Arrow ends the process if `to_parquet` writes to a file itself
    buffer = BytesIO()
    dataset.to_parquet(buffer)
    with replacing(path, hint=hint) as file:
        file.write(buffer.getbuffer())


def hash_json(value: object) -> str:
    """Hashes plain values; the same on every machine and in every process."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
