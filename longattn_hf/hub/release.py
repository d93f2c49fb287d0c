"""What a release consists of: the files of an output folder, checked against the card that describes them."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from longattn_hf.files import read_record
from longattn_hf.hub.card_merge import (
    merge_cards,
    name_repository,
    read_configurations,
    read_row_counts,
)
from longattn_hf.hub.layout import CARD, DATA, FIGURES, FINISHED, PAGE, REPORT, SCORES, STATISTICS
from longattn_hf.hub.loadable import check_loadable
from longattn_hf.hub.patterns import file_patterns, matches
from longattn_hf.hub.repository import LocalFile
from longattn_hf.hub.staging import MAX_SHARD_BYTES

# the layout of a dataset; what else a build's folder holds is private
_PUBLISHED = (CARD, REPORT, PAGE, STATISTICS, *(f"{name}/**/*" for name in (FIGURES, DATA, SCORES)))


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One configuration's data: its files, rows, bytes, and the sha256 over its files' names and contents."""

    name: str
    paths: tuple[str, ...]
    num_rows: int
    num_bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}: {self.num_rows} rows, {len(self.paths)} files, {self.num_bytes} bytes, {self.sha256}"


class Release:
    """The files to publish.

    Args:
        folder: A build's output folder.
        repo_id: Where they go; the card is made to say so.

    Raises:
        ValueError: A file is missing, too large, broken, not described by the card, not as the card says, or
            not what `datasets` can load.
    """

    def __init__(self, folder: Path, repo_id: str) -> None:
        if not (folder / CARD).is_file():
            raise ValueError(f"{folder} holds no {CARD}: give the output folder of a finished build")
        paths = [path for pattern in _PUBLISHED for path in sorted(folder.glob(pattern)) if path.is_file()]
        paths = [path for path in paths if not path.name.startswith(".")]
        self.card = (folder / CARD).read_bytes().decode()
        merge_cards(None, self.card)
        self.card = name_repository(self.card, repo_id)
        self.files = {path.relative_to(folder).as_posix(): _read(path) for path in paths if path.name != CARD}
        noted = read_record(folder / FINISHED).get("files", {})
        now = {path: file.sha256 for path, file in self.files.items()}
        # people's own words in the card are theirs to change
        if changed := [path for path, digest in noted.items() if path != CARD and now.get(path) != digest]:
            raise ValueError(f"{', '.join(changed)} changed since {folder} was built: build again")
        self.patterns = {
            name: file_patterns(configuration) for name, configuration in read_configurations(self.card).items()
        }
        # one reading of a long card takes seconds
        stated = read_row_counts(self.card)
        self.configurations = tuple(self._describe(name, stated.get(name)) for name in self.patterns)
        described = {path for configuration in self.configurations for path in configuration.paths}
        if lost := [path for path in self.files if path.endswith(".parquet") and path not in described]:
            raise ValueError(f"no configuration of the card's front matter holds {', '.join(lost)}")
        check_loadable(self.card, self.files)

    def _describe(self, name: str, stated: int | None) -> Configuration:
        files = {path: file for path, file in sorted(self.files.items()) if matches(path, self.patterns[name])}
        if not files:
            raise ValueError(
                f"the card's configuration {name!r} names {self.patterns[name]}, but no such file is there"
            )
        rows = sum(file.num_rows for file in files.values())
        if rows != stated:
            raise ValueError(
                f"configuration {name!r} holds {rows} rows, the card's dataset_info says {stated}: build again"
            )
        size = sum(file.size for file in files.values())
        digest = digest_of({path: file.sha256 for path, file in files.items()})
        return Configuration(name=name, paths=tuple(files), num_rows=rows, num_bytes=size, sha256=digest)

    @property
    def summary(self) -> str:
        """How much it is, in words."""
        rows = sum(configuration.num_rows for configuration in self.configurations)
        return f"{rows} rows in {len(self.configurations)} configurations"

    def check_free_of(self, *secrets: str) -> None:
        """Refuses to publish a text that quotes the token or this machine's path."""
        texts = {
            path: file.path.read_text("utf-8")
            for path, file in self.files.items()
            if path.endswith((".json", ".html"))
        }
        for path, text in (texts | {CARD: self.card}).items():
            if any(secret in text for secret in secrets):
                raise ValueError(
                    f"{path} quotes the token or the output folder's local path: it must not be published"
                )


def _read(path: Path) -> LocalFile:
    size, rows = path.stat().st_size, 0
    if path.suffix == ".parquet":
        if size > MAX_SHARD_BYTES:
            raise ValueError(
                f"{path.name} has {size} bytes, a shard may have {MAX_SHARD_BYTES}: build with smaller shards"
            )
        try:
            rows = pq.read_metadata(path).num_rows
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path.name} is not a whole Parquet file: build again") from error
    return LocalFile.read(path, rows)


def digest_of(hashes: dict[str, str]) -> str:
    """One sha256 for a set of files: over the lines "path sha256" in the order given."""
    return sha256("".join(f"{path} {value}\n" for path, value in hashes.items()).encode()).hexdigest()
