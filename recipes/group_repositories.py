"""Joins source files to one document a repository, in the order of their paths: what a build of code begins with.

    python -m recipes.group_repositories --output_dir out/repositories

Reads rows with `text` and `metadata` (`repo_name`, `path`, `license`) as JSON lines, such as those of
common-pile/stackv2_edu_filtered, and writes Parquet files of one row a repository: `id` (its name), `text`, `license`,
`files`. The rows of a repository lie anywhere in a corpus, so they are first put into buckets on the disk by a hash of
the name; then each bucket is sorted by itself in memory, of which it needs some four times the corpus's size divided
by `buckets`. The output is the same whatever the order of the rows. A file that comes twice, with its path and its
text, is taken once.

common-pile/stackv2 holds the files of stackv2_edu_filtered too: to take both gains what the filter left out, and costs
reading the rest twice. The licence of a repository names those of all its files.
"""

import gzip
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from longattn_hf.files import replacing
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Texts, read_command_line, settings
from longattn_hf.pipeline.source_config import SourceConfig
from longattn_hf.pipeline.sources import open_source
from longattn_hf.rows import is_unicode

_SCHEMA = pa.schema({"id": pa.string(), "text": pa.string(), "license": pa.string(), "files": pa.int64()})
# repository, path, text, licence: in this order they are sorted
_File = tuple[str, str, str, str]


@settings
class GroupConfig:
    """Which files are joined, and where the repositories go.

    Attributes:
        output_dir: The folder to write; the buckets lie in it meanwhile.
        path: A dataset on the Hub, a local folder, or `json`, as in a build's sources.
        data_files: Its files of JSON lines.
        revision: The dataset's branch, tag or commit.
        buckets: How many files are written, and how often less than the corpus has to fit into memory.
        header: What stands before each file's text; {path} is its path.
        max_rows: Read no more than this.
    """

    output_dir: LocalPath
    path: str = "common-pile/stackv2_edu_filtered"
    data_files: str | Texts = "*.json.gz"
    revision: str | None = None
    buckets: int = 256
    header: str = "{path}\n\n"
    max_rows: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= 4096:
            raise ValueError(f"buckets={self.buckets} must lie in [1, 4096].")


def main(arguments: list[str] | None = None) -> None:
    """Runs from the command line."""
    with refusing("group_repositories"):
        group(read_command_line(GroupConfig, arguments, description=__doc__))


def group(config: GroupConfig) -> None:
    """Writes `repositories-NNNN.parquet`, one a bucket; raises as `open_source`, and where the folder is not empty."""
    if config.output_dir.is_dir() and any(config.output_dir.glob("repositories-*.parquet")):
        raise ValueError(f"{config.output_dir} holds repositories already: remove them, or choose another output_dir.")
    folder = config.output_dir / "buckets"
    # those of a run that was killed are of who knows how many rows
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    nameless = _fill(config, folder)
    count = 0
    for number in tqdm(range(config.buckets), unit="bucket"):
        bucket = folder / f"{number:04d}.gz"
        count += _write(_joined(bucket, config.header), config.output_dir / f"repositories-{number:04d}.parquet")
        bucket.unlink()
    folder.rmdir()
    print(f"{config.output_dir}: {count:,} repositories; {nameless:,} rows without text, repo_name or path left out")


def _fill(config: GroupConfig, folder: Path) -> int:
    """Puts each row into its repository's bucket; returns how many have no text, repository or path."""
    source = SourceConfig(
        category="code",
        path=config.path,
        data_files=config.data_files,
        revision=config.revision,
        json_lines=True,
        columns=["metadata", "license"],
    )
    nameless = 0
    stream = open_source(source).stream
    with ExitStack() as opened:
        names = (folder / f"{number:04d}.gz" for number in range(config.buckets))
        files = [opened.enter_context(gzip.open(name, "wt", compresslevel=1, encoding="utf-8")) for name in names]
        for row in tqdm(stream if config.max_rows is None else stream.take(config.max_rows), unit="file"):
            if (file := _file_of(row)) is None:
                nameless += 1
                continue
            digest = int.from_bytes(sha256(file[0].encode()).digest()[:8], "big")
            files[digest % config.buckets].write(json.dumps(file) + "\n")
    return nameless


def _file_of(row: dict[str, Any]) -> _File | None:
    try:
        metadata = json.loads(row["metadata"] or "{}")
        name, path = metadata["repo_name"], metadata["path"]
    except (ValueError, KeyError, TypeError):
        return None
    license = row["license"] or metadata.get("license") or "unknown"
    license = license if isinstance(license, str) else json.dumps(license)
    usable = all(isinstance(value, str) and value and is_unicode(value) for value in (name, path, row["text"]))
    return (name, path, row["text"], license) if usable else None


def _joined(bucket: Path, header: str) -> Iterator[dict[str, Any]]:
    with gzip.open(bucket, "rt", encoding="utf-8") as lines:
        files = sorted(tuple(json.loads(line)) for line in lines)
    for name, of_one in groupby(files, key=lambda file: file[0]):
        rows = list(of_one)
        texts = {(path, text): header.replace("{path}", path) + text.rstrip("\n") + "\n" for _, path, text, _ in rows}
        license = " AND ".join(sorted({license for *_, license in rows}))
        yield {"id": name, "text": "\n".join(texts.values()), "license": license, "files": len(texts)}


def _write(repositories: Iterable[dict[str, Any]], path: Path) -> int:
    """Writes rows, each a row group, since some are large; returns their number."""
    count = 0
    with replacing(path) as file, pq.ParquetWriter(file, _SCHEMA) as writer:
        for repository in repositories:
            writer.write_table(pa.Table.from_pylist([repository], _SCHEMA))
            count += 1
    return count


if __name__ == "__main__":
    main()
