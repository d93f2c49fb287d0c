"""Small Parquet files that are there whole or not at all, and know what they were made from."""

import contextlib
import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_METADATA_KEY = b"longattn_hf"
#: Rows that are read and scored together, and an eighth of a row group.
ROWS_AT_ONCE = 32


def hash_json(value: object) -> str:
    """Hashes plain values; the same on every machine and in every process."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_shard(path: Path, table: pa.Table, fingerprint: str, facts: Mapping[str, Any] | None = None) -> None:
    """Writes a table so that `path` either holds all of it or is as it was before.

    Args:
        path: The shard's file; its folder is made.
        table: Its rows.
        fingerprint: Names everything the shard was made from.
        facts: Plain values kept beside it.

    Raises:
        OSError: The folder is full or cannot be written to; says how to go on.
    """
    metadata = {_METADATA_KEY: json.dumps({"fingerprint": fingerprint, **(facts or {})}, sort_keys=True)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            pq.write_table(
                table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata}),
                file,
                row_group_size=ROWS_AT_ONCE * 8,
                compression="zstd",
                write_page_checksum=True,
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"Cannot write {path}: {error.strerror or error}. Finished shards are kept: make room, or make the folder "
            "writable, and the same command goes on from there",
        ) from error


def read_facts(path: Path, fingerprint: str | None = None) -> dict[str, Any] | None:
    """Returns what `write_shard` kept beside a shard; None if it is missing, damaged or of another fingerprint."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        facts = json.loads(metadata[_METADATA_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, json.JSONDecodeError):
        return None
    return facts if fingerprint in (None, facts.get("fingerprint")) else None
