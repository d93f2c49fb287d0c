"""Files that are there whole or not at all, records that notice damage, and hashes of plain values."""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

if TYPE_CHECKING:
    from datasets import Dataset

# what `replacing` calls a file that is not complete
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
_DIGEST = "sha256"
_MOST_VALUES = 100_000


def is_address(path: str) -> bool:
    """Says whether a path is an address, such as `s3://bucket/folder`, and not one of this machine's."""
    return "://" in path


def as_pattern(path: str) -> str:
    """Returns a pattern in which names of folders and files that are there stand for themselves; an address as it is.

    What is behind the last of these may be a pattern: `runs [v1]/*.parquet` is one in a folder, where that is there.
    """
    if is_address(path):
        return path
    whole = Path(path)
    if escape(os.getcwd()) != os.getcwd():
        # who reads a relative one puts it behind the working directory, whose name counts as well
        whole = whole.absolute()
    if escape(str(whole)) == str(whole):
        return path
    there = next((folder for folder in (whole, *whole.parents) if folder.exists()), Path())
    return str(Path(escape(str(there)), whole.relative_to(there)))


def refuse_address(path: object) -> object:
    """Returns a path of this machine; raises ValueError on an address, which would become the name of a folder."""
    if is_address(str(path)):
        raise ValueError("must be a path of this machine, not an address")
    return path


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


def target_of_leftover(path: Path) -> Path | None:
    """Returns which file a kill has left in the making as `path`; None where its name is not of `replacing`'s."""
    name = _TEMPORARY.fullmatch(path.name)
    return path.with_name(name[1]) if name else None


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


def _as_json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Writes plain values as indented JSON, whole or not at all; raises as `replacing`."""
    write_text(path, _as_json(value))


def format_record(values: Mapping[str, Any], name: str) -> str:
    """Returns plain values as JSON with a hash of them and of the file's name, for `parse_record` to notice damage."""
    plain = json.loads(json.dumps(values))
    return _as_json(plain | {_DIGEST: hash_json([name, plain])})


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain values as a record; raises as `replacing`."""
    write_text(path, format_record(values, path.name))


def parse_record(content: bytes, name: str) -> dict[str, Any]:
    """Returns the values of a record, of which `name` is the file's; none where it is damaged."""
    try:
        values = json.loads(content)
        return values if values.pop(_DIGEST) == hash_json([name, values]) else {}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}


def read_record(path: Path) -> dict[str, Any]:
    """Returns what `write_record` wrote; nothing where it is missing or damaged."""
    try:
        return parse_record(path.read_bytes(), path.name)
    except OSError:
        return {}


def claim(record: Path, settings: Mapping[str, Any], *, folder: object, or_else: str = "") -> None:
    """Writes settings down, or checks that they are those written down before.

    Args:
        record: The JSON file that keeps them.
        settings: Plain values.
        folder: What is claimed, for messages.
        or_else: What else to do than to choose another folder, likewise.

    Raises:
        ValueError: Other settings are written down.
        OSError: The folder cannot be written to.
    """
    settings = json.loads(json.dumps(settings))
    if not record.exists():
        write_record(record, settings)
        return
    before = read_record(record)
    if not before:
        raise ValueError(
            f"{record} is damaged, so it cannot be said what it is of. Choose another output_dir{or_else}."
        )
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        changes = "; ".join(f"{name} was {before.get(name)!r} and is now {settings[name]!r}" for name in changed)
        raise ValueError(f"{folder} holds work with other settings: {changes}. Choose another output_dir{or_else}.")


def write_parquet(dataset: "Dataset", path: Path, *, hint: str) -> None:
    """Writes a dataset as one Parquet file, with `datasets`' row groups, page index and metadata.

    Takes `path` and `hint` as `replacing`, and raises as it does.
    """
    # by way of memory: where a disk is full, Arrow ends the process if `to_parquet` writes to a file itself
    buffer = BytesIO()
    dataset.to_parquet(buffer)
    with replacing(path, hint=hint) as file:
        file.write(buffer.getbuffer())


def hash_file(path: Path) -> str:
    """Returns the sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def hash_json(value: object) -> str:
    """Hashes plain values; the same on every machine and in every process."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Reads YAML, but not one whose aliases stand for more than a file holds.

    Raises:
        yaml.YAMLError: It is none, or its aliases make more than 100,000 values, or one that holds itself.
    """
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node) -> int:
        if id(node) not in sizes:
            # until it is known, that of a node that holds itself
            sizes[id(node)] = _MOST_VALUES + 1
            parts = [] if isinstance(node, yaml.ScalarNode) else node.value
            parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
            sizes[id(node)] = 1 + sum(map(size_of, parts))
        return sizes[id(node)]

    if re.search(r"(?:^|[\s,\[{:-])\*", text):
        root = yaml.compose(text, loader)
        if root is not None and size_of(root) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases make more than {_MOST_VALUES:,} values, or one that holds itself")
    return yaml.load(text, loader)
