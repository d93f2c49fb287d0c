"""Reads documents one by one, and says of each that cannot be read why; what is damaged ends its file alone."""

import bz2
import gzip
import io
import json
import logging
import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import pyarrow as pa
from datasets import Features, IterableDataset, Value
from datasets.exceptions import DatasetsError
from datasets.utils.file_utils import xopen

logger = logging.getLogger(__name__)

#: The column that says why a row cannot be read.
UNREADABLE = "longattn_hf.unreadable"

_MOST_BYTES_A_LINE = 2**30
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowException, DatasetsError)
_DAMAGE = (ValueError, TypeError, *_BROKEN)
# how far a text column is looked for
_FIRST_LINES, _FIRST_FILES = 100, 8


@dataclass(frozen=True)
class JsonLines:
    """Reads named fields of lines of JSON, so that the other fields may differ in type from file to file.

    Attributes:
        text_column: The column that holds the documents.
        names: All columns that are read.
        join: What joins a text that is a list of pages; None where that is no text.
    """

    text_column: str
    names: tuple[str, ...]
    join: str | None = None

    def open(self, files: Sequence[str], source: str) -> IterableDataset:
        """Opens files as a stream with a shard each, and a row a line.

        Raises:
            ValueError: The first lines have no such column; says which they have.
        """
        self._check_column(files, source)
        features = Features(dict.fromkeys((*self.names, UNREADABLE), Value("string")))
        return IterableDataset.from_generator(self._read, features=features, gen_kwargs={"files": list(files)})

    def _read(self, files: Sequence[str]) -> Iterator[dict[str, str | None]]:
        for file in files:
            for line in _lines_of(file):
                yield self.read(line)

    def read(self, line: bytes) -> dict[str, str | None]:
        """Returns a line's row: the fields as text, or why there are none."""
        document, reason = _parse(line)
        values = {name: document.get(name) for name in self.names}
        text, unjoined = join_pages(values[self.text_column], self.join)
        if reason is None and self.text_column not in document:
            reason = f"without the column {self.text_column!r}"
        as_text = {n: v if v is None or isinstance(v, str) else json.dumps(v) for n, v in values.items()}
        return as_text | {self.text_column: text, UNREADABLE: reason or unjoined}

    def _check_column(self, files: Sequence[str], source: str) -> None:
        names: dict[str, None] = {}
        for file in files[:_FIRST_FILES]:
            try:
                for line in islice(_lines_of(file), _FIRST_LINES):
                    names |= dict.fromkeys(_parse(line)[0])
                    if self.text_column in names:
                        return
            except _DAMAGE:
                # said, and counted, when its turn comes
                continue
        if names:
            raise ValueError(
                f"The source {source!r} has no column {self.text_column!r} in its first lines; it has "
                f"{', '.join(names)}. Name the text's column with text_column."
            )


def join_pages(value: Any, join: str | None) -> tuple[str | None, str | None]:
    """Returns a text and None, or None and the reason why a value is none; a list of texts may be joined."""
    if value is None or isinstance(value, str):
        return value, None
    if join is None or not isinstance(value, list | tuple):
        return None, "not text"
    if not all(isinstance(page, str) for page in value):
        return None, "not a list of texts"
    return join.join(value), None


@dataclass(frozen=True)
class JoinPages:
    """Joins a column's pages to one text, row by row."""

    text_column: str
    join: str

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Joins one row's."""
        text, reason = join_pages(row[self.text_column], self.join)
        return {self.text_column: text, UNREADABLE: reason}


def rows_of(stream: IterableDataset, *, where: str, start: int, skip: bool) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file up to where it is damaged, and there one that says so.

    Args:
        stream: The file.
        where: Its name.
        start: The number of its first row.
        skip: Go on with the next file; if not, raise.

    Raises:
        ValueError: The file is damaged and `skip` is off; names the file, the row and what is wrong.
        OSError: The file cannot be reached, which is no damage.
    """
    number = start
    try:
        for row in stream:
            number += 1
            yield row
    except (*_DAMAGE, OSError) as error:
        # Arrow's errors of decompression are plain ones; those of files and networks have a number or a class
        if not isinstance(error, _DAMAGE) and (type(error) is not OSError or error.errno is not None):
            raise
        message = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, DatasetsError | TypeError | pa.ArrowException) and ".json" in where:
            message += "; json_lines, with columns, reads files whose fields differ in type"
        if not skip:
            raise ValueError(
                f"{where} cannot be read from row {number + 1} on: {message}. Mend or leave out the file, or pass "
                "on_error='skip' to go on with the next."
            ) from error
        logger.warning("%s cannot be read from row %d on: %s", where, number + 1, message)
        yield {UNREADABLE: f"unreadable, as the rest of its file ({type(error).__name__})"}


def _parse(line: bytes) -> tuple[dict[str, Any], str | None]:
    """Returns the object that a line holds, or an empty one and the reason."""
    if not line.strip():
        return {}, "blank line"
    if len(line) > _MOST_BYTES_A_LINE:
        return {}, f"a line of more than {_MOST_BYTES_A_LINE:,} bytes"
    try:
        document = json.loads(line.decode())
    except UnicodeDecodeError:
        return {}, "not UTF-8"
    except (ValueError, RecursionError):
        return {}, "damaged JSON"
    if not isinstance(document, dict):
        return {}, f"JSON, but no object ({type(document).__name__})"
    return document, None


def _lines_of(file: str) -> Iterator[bytes]:
    with xopen(file, "rb") as raw, _decompressed(raw, file) as whole:
        while line := whole.readline(_MOST_BYTES_A_LINE + 1):
            rest = line
            while len(rest) > _MOST_BYTES_A_LINE and not rest.endswith(b"\n"):
                rest = whole.readline(_MOST_BYTES_A_LINE + 1)
            # files that were put together have one inside
            yield line.removeprefix(_BYTE_ORDER_MARK)


def _decompressed(raw: IO[bytes], name: str) -> Any:
    if name.endswith(".zst"):
        # unlike zstandard it notices an end that comes too soon; by itself it reads no lines
        return io.BufferedReader(pa.input_stream(raw, compression="zstd"))
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return next((opener for end, opener in openers.items() if name.endswith(end)), _as_stored)(raw)


def _as_stored(raw: IO[bytes]) -> IO[bytes]:
    return raw
