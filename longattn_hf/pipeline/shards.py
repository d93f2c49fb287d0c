"""Small Parquet files that are there whole or not at all and know what they were made from, and the list of them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longattn_hf.columns import SKIP_REASON, TEXT
from longattn_hf.files import hash_json, replacing
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.report.describe import DocumentCounts
from longattn_hf.rows import put_array

_FACTS, _DIGEST = b"longattn_hf", b"longattn_hf.sha256"
# the digest of a shard is taken with zeros in its place
_MARK, _ZEROS = b"sha256:", b"0" * 64
_GO_ON = "Finished shards are kept: make room, or make the folder writable, and the same command goes on from there"
#: Rows that are read and scored together, and an eighth of a row group.
ROWS_AT_ONCE = 32
_SHARDS_A_BLOCK = 256


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
    known = json.dumps({"fingerprint": fingerprint, **(facts or {})}, sort_keys=True)
    metadata = {**(table.schema.metadata or {}), _FACTS: known, _DIGEST: _MARK + _ZEROS}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        row_group_size=ROWS_AT_ONCE * 8,
        compression="zstd",
        write_page_checksum=True,
    )
    content = bytearray(sink.getvalue())
    assert _swap_digest(content, sha256(content).hexdigest().encode()) == _ZEROS
    with replacing(path, hint=_GO_ON) as file:
        file.write(content)


def _swap_digest(content: bytearray, digest: bytes) -> bytes:
    """Puts another digest into a shard's bytes, and returns the one that stood there."""
    # of all that a shard holds, its footer's metadata come last
    start = content.rfind(_MARK) + len(_MARK)
    before = bytes(content[start : start + len(_ZEROS)])
    content[start : start + len(_ZEROS)] = digest
    return before


def read_facts(path: Path, fingerprint: str | None = None, *, check: bool = True) -> dict[str, Any] | None:
    """Returns what `write_shard` kept beside a shard, and its `rows`; None if it is missing, damaged or another.

    Args:
        path: The shard's file.
        fingerprint: What it has to be made from; anything if None.
        check: Read all of it, and notice any byte that changed since it was written.
    """
    try:
        if check:
            content = bytearray(path.read_bytes())
            digest = _swap_digest(content, _ZEROS)
            if sha256(content).hexdigest().encode() != digest:
                return None
        facts = facts_in(pq.read_metadata(pa.BufferReader(content) if check else path))
    except (OSError, pa.ArrowInvalid, ValueError):
        return None
    return facts if "fingerprint" in facts and fingerprint in (None, facts["fingerprint"]) else None


def facts_in(metadata: pq.FileMetaData) -> dict[str, Any]:
    """Returns the facts in a file's footer, and its `rows`; the latter alone where `write_shard` has not written it.

    Raises:
        ValueError: It is damaged.
    """
    return json.loads((metadata.metadata or {}).get(_FACTS, b"{}")) | {"rows": metadata.num_rows}


def score_fingerprint(scorer: str, windows: str | None) -> str:
    """Names everything that the scores of a shard are made from: what scorer, all but its windows, and these."""
    return hash_json([scorer, windows])


def read_shard(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """Reads a shard, or some columns of it.

    Raises:
        ValueError: It is missing or damaged.
    """
    try:
        # not `read_table`, which takes a category called a=b for a column
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns and list(columns))
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): run the same command again to make it.") from error


@dataclass(frozen=True)
class ScoredShards:
    """All shards of a corpus in its order, and where each of its windows stands.

    Shards of windows and of their scores have the same names and rows; the corpus's rows are theirs, end to end.

    Attributes:
        folder: The build's.
        names: `<category>/<name>.parquet`, below the folders of windows and of scores.
        rows: int64 `[len(names)]`, the windows of each.
        fingerprints: What each shard of windows was made from.
        counts: The documents of each category.
    """

    folder: BuildFolder
    names: tuple[str, ...]
    rows: np.ndarray
    fingerprints: tuple[str, ...]
    counts: Mapping[str, DocumentCounts]

    @classmethod
    def gather(cls, folder: BuildFolder, shards: Mapping[str, Mapping[str, Any]]) -> "ScoredShards":
        """Makes the list of a windowed corpus from its shards' facts, by name; see `windowed_shards`."""
        counts: dict[str, DocumentCounts] = {}
        for name, facts in shards.items():
            counts.setdefault(Path(name).parent.as_posix(), DocumentCounts()).add(
                facts["documents"], facts["skipped"], facts["documents_by_source"]
            )
        rows = np.array([facts["rows"] for facts in shards.values()], dtype=np.int64)
        return cls(folder, tuple(shards), rows, tuple(facts["fingerprint"] for facts in shards.values()), counts)

    def save(self) -> None:
        """Writes the list into the build's folder, unless it is there; raises as `write_shard`."""
        fingerprint = hash_json([self.names, self.fingerprints])
        if read_facts(self.folder.shards, fingerprint) is not None:
            return
        table = pa.table({"name": self.names, "rows": self.rows, "fingerprint": self.fingerprints})
        # as pairs, which keep their order
        counts = [(name, counted.to_plain()) for name, counted in self.counts.items()]
        write_shard(self.folder.shards, table, fingerprint, {"counts": counts})

    @classmethod
    def load(cls, folder: BuildFolder) -> "ScoredShards":
        """Reads what `save` wrote.

        Raises:
            ValueError: There is no such list, or it is damaged.
        """
        facts = read_facts(folder.shards)
        if facts is None:
            raise ValueError(f"{folder.shards} is missing or damaged: run the build again to make it.")
        names, rows, fingerprints = read_shard(folder.shards).columns
        counts = {name: DocumentCounts() for name, _ in facts["counts"]}
        for name, plain in facts["counts"]:
            counts[name].add(**plain)
        return cls(folder, tuple(names.to_pylist()), rows.to_numpy(), tuple(fingerprints.to_pylist()), counts)

    def score_fingerprint(self, shard: int, scorer: str) -> str:
        """Names everything that the scores of a shard are made from, `scorer` being all but its windows."""
        return score_fingerprint(scorer, self.fingerprints[shard])

    def read_scores(self, scorers: Mapping[str, str], tick: Callable[[int], object] = lambda count: None) -> pa.Table:
        """Reads the scores of all windows, in the corpus's order.

        Args:
            scorers: What the scores of each scorer are made from, as in `score_fingerprint`, by its name.
            tick: Is told how many windows' scores were read since the last call.

        Returns:
            The windows' own columns, the scores of all scorers, and `skip_reason`, that of the first scorer that
            gives one.

        Raises:
            ValueError: A shard of scores is missing, damaged or of other windows.
        """
        # thousands of small tables would take several times the memory and time of a few large ones
        blocks: list[pa.Table] = []
        for start in range(0, len(self.names), _SHARDS_A_BLOCK):
            shards = range(start, min(start + _SHARDS_A_BLOCK, len(self.names)))
            tables = []
            for shard in shards:
                tables.append(self._read_scores_of_all(shard, scorers))
                tick(int(self.rows[shard]))
            blocks.append(pa.concat_tables(tables, promote_options="default").combine_chunks())
        return pa.concat_tables(blocks, promote_options="default")

    def _read_scores_of_all(self, shard: int, scorers: Mapping[str, str]) -> pa.Table:
        (first, made_from), *others = scorers.items()
        table, _ = self._read_scores(shard, first, made_from)
        for name, made_from in others:
            more, added = self._read_scores(shard, name, made_from)
            reasons = [table[SKIP_REASON]] if SKIP_REASON in table.column_names else []
            if SKIP_REASON in more.column_names:
                table = put_array(table, SKIP_REASON, pc.coalesce(*reasons, more[SKIP_REASON]))
            for column in added:
                # a shard without a row has no scores either
                if column in more.column_names:
                    table = put_array(table, column, more[column])
        return table

    def _read_scores(self, shard: int, scorer: str, made_from: str) -> tuple[pa.Table, list[str]]:
        table = read_shard(self.folder.scores_by(scorer) / self.names[shard])
        facts = json.loads((table.schema.metadata or {}).get(_FACTS, b"{}"))
        if facts.get("fingerprint") != self.score_fingerprint(shard, made_from):
            raise ValueError(
                f"The scores {self.names[shard]} are of other windows: run the same command again to make them."
            )
        return table.replace_schema_metadata(None), facts["adds"]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns, for rows of the corpus, the number of each one's shard and its row in it; int64 both."""
        starts = np.concatenate([[0], self.rows.cumsum()])
        shards = np.searchsorted(starts, rows, side="right") - 1
        return shards, rows - starts[shards]

    def read_windows(self, shards: np.ndarray, rows: np.ndarray, columns: Iterable[str] | None = None) -> pa.Table:
        """Reads windows.

        Args:
            shards: The shard of each, int64 `[N]`; those of one shard follow one another.
            rows: The row of each in its shard, int64 `[N]`.
            columns: What to read; all if None.
        """
        parts = []
        for shard, group in groupby(range(len(shards)), key=lambda at: int(shards[at])):
            # a file that nothing is taken of still has the columns
            parts.append(self._read(shard, columns).take(rows[list(group)]))
        return pa.concat_tables(parts or [self._read(0, columns).slice(0, 0)], promote_options="default")

    def read_texts(self, rows: np.ndarray) -> list[str]:
        """Reads the texts of a few rows of the corpus."""
        return self.read_windows(*self.locate(rows), [TEXT])[TEXT].to_pylist()

    def _read(self, shard: int, columns: Iterable[str] | None) -> pa.Table:
        return read_shard(self.folder.windows / self.names[shard], columns).replace_schema_metadata(None)
