"""What stands behind a name at the moment, so that results of other bytes are never taken for its own."""

import json
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from longattn_hf.files import hash_json
from longattn_hf.model.loaded import is_loaded
from longattn_hf.model.location import ModelRef, check_file_name, locate, resolve_model

# what a model or its tokenizer is read from
_READ = {".safetensors", ".gguf", ".json", ".model", ".txt", ".py", ".jinja"}
# larger files are told apart by size and time
_HASHED_BYTES = 2**24

# the commits that this process goes by
_commits: dict[ModelRef, str] = {}


def identify(model: ModelRef) -> str:
    """Names the bytes behind a model's name: the commit that the Hub has now, or a hash over local files.

    Of files above 16 MB, size and time of change stand for the contents.

    Raises:
        ValueError: There is no such model, or no access to it.
    """
    if is_loaded(model.name):
        return str(model.name)
    path = Path(resolve_model(model.name)).expanduser()
    if path.is_dir():
        only = path / model.gguf_file if model.gguf_file else None
        files = [only] if only else _read_from(path)
    elif path.is_file():
        files = [path]
    else:
        commit = locate(model).commit
        _commits[model] = str(commit)
        return str(commit)
    try:
        within = path if path.is_dir() else path.parent
        return hash_json([[file.relative_to(within).as_posix(), identify_file(file)] for file in files])
    except OSError as error:
        raise ValueError(f"{model.name!r} cannot be read: {error}") from error


def _read_from(folder: Path) -> list[Path]:
    """Returns the files of a model's folder that count, those in subfolders too that an index of tensors names."""
    files = {file for file in folder.iterdir() if file.suffix in _READ and file.is_file()}
    for index in [file for file in files if file.name.endswith(".index.json")]:
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files |= {folder / shard for shard in shards if (folder / check_file_name(shard, folder.name)).is_file()}
        except (ValueError, KeyError, AttributeError, TypeError):
            # where it is no index, or leads out of the folder, loading says so better
            continue
    return sorted(files)


def identify_once(model: ModelRef) -> str:
    """Names the bytes as `identify` does, but asks the Hub for a commit only once in a process."""
    return _commits.get(model) or identify(model)


def pinned(model: ModelRef) -> ModelRef:
    """Returns the model at the commit that `identify` found, where it is on the Hub."""
    commit = _commits.get(model)
    return replace(model, revision=commit) if commit else model


def identify_file(file: Path) -> str:
    """Names a local file's bytes.

    Raises:
        OSError: It cannot be read.
    """
    size, changed, _ = stamp = stamp_of(file)
    return _hash_file(file, stamp) if size <= _HASHED_BYTES else f"{(size, changed)}"


def stamp_of(file: Path) -> tuple[int, int, int]:
    """Tells a file as it is from what stood there before: its size, time of change in ns, and number on the disk."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=256)
def _hash_file(file: Path, stamp: tuple[int, ...]) -> str:
    return sha256(file.read_bytes()).hexdigest()


class KnowsItsBytes:
    """Pickles with the identity of what its names stand for, which `datasets` hashes to know a result again.

    A process that unpickles it goes by the same commits.
    """

    def _models(self) -> tuple[ModelRef, ...]:
        """The models whose bytes count."""
        return ()

    def _other_bytes(self) -> Any:
        """Names, as plain values, whatever else counts."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {
            **vars(self),
            "_bytes": (
                {replace(model, token=None): _try_to_identify(model) for model in self._models()},
                self._other_bytes(),
            ),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        models, _ = state.pop("_bytes")
        self.__dict__.update(state)
        for model, identity in models.items():
            # a commit, and not the hash of files
            if identity and len(identity) == 40:
                _commits.setdefault(model, identity)


def _try_to_identify(model: ModelRef) -> str | None:
    # where there is no such model, its loading says so better
    try:
        return identify(model)
    except ValueError:
        return None
