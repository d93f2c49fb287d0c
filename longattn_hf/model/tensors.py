"""Where a model's files are, and reading a few named tensors out of them: safetensors or GGUF, local or on the Hub."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longattn_hf.hub.client import explain
from longattn_hf.model.byte_ranges import Rows, fetch_tensors, refuse_other_rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class Location:
    """A model's place: a local directory, or a Hub repository at a commit.

    Attributes:
        path: The directory, or the repository's id.
        commit: The repository's commit; None for a directory.
        gguf_file: The GGUF file's name inside it; None for safetensors.
        token: What `huggingface_hub` takes as a token; never shown.
    """

    path: str
    commit: str | None = None
    gguf_file: str | None = None
    token: str | bool | None = None

    def __repr__(self) -> str:
        return f"Location({self.name!r}, commit={self.commit!r})"

    @property
    def name(self) -> str:
        """The model's name for reports: the repository's id, or the directory's own name without its path."""
        name = self.path if self.commit else Path(self.path).resolve().name
        return f"{name}/{self.gguf_file}" if self.gguf_file else name

    def file(self, name: str) -> Path:
        """Returns the local path of one of the model's files, downloading it first where it is on the Hub.

        Raises:
            FileNotFoundError: The model has no such file.
            ValueError: It cannot be had: no access, no network.
        """
        if self.commit is None:
            path = Path(self.path, name)
            if not path.is_file():
                raise FileNotFoundError(f"{self.path!r} has no file {name}.")
            return path
        return _download(self.path, name, self.commit, self.token)

    @property
    def loading_arguments(self) -> dict[str, Any]:
        """The arguments with which transformers' `from_pretrained` finds the same files."""
        return {"revision": self.commit or "main", "gguf_file": self.gguf_file, "token": self.token}


def locate(
    model: str, *, revision: str | None = None, gguf_file: str | None = None, token: str | bool | None = None
) -> Location:
    """Finds a model: a local directory, a path to a GGUF file, or a Hub id, whose `revision` is pinned to its commit.

    Raises:
        ValueError: There is no such model, or no access to it.
    """
    path = Path(model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return Location(path=str(path.parent), gguf_file=path.name)
    if path.is_dir():
        there = sorted(file.name for file in path.glob("*.gguf"))
        if gguf_file and not (path / gguf_file).is_file():
            raise ValueError(f"{model!r} has no GGUF file {gguf_file!r}; it has {', '.join(there) or 'none'}.")
        if not gguf_file and not (path / "config.json").is_file():
            hint = f"Pass gguf_file={there[0]!r}." if there else "Give a model's directory, a GGUF file or a Hub id."
            raise ValueError(f"{model!r} has no config.json. {hint}")
        return Location(path=str(path), gguf_file=gguf_file)
    if path.is_absolute() or path.suffix == ".gguf" or model.count("/") > 1:
        raise ValueError(f"{model!r} is neither a directory nor a GGUF file, and cannot be a Hub id.")
    try:
        first = _download(model, gguf_file or "config.json", revision, token)
    except FileNotFoundError as error:
        raise ValueError(f"{error} Is {model!r} the id of a language model's repository?") from error
    # the cache keeps files under snapshots/<commit>/
    commit = first.parts[len(first.parts) - first.parts[::-1].index("snapshots")]
    return Location(path=model, commit=commit, gguf_file=gguf_file, token=token)


def _download(repository: str, name: str, revision: str | None, token: str | bool | None) -> Path:
    try:
        return Path(hf_hub_download(repository, name, revision=revision, token=token))
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{name} of {repository!r} is not in the local cache and the Hub cannot be reached. Check the network, or "
            "download the model where there is one."
        ) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{repository!r} has no file {name} at revision {revision or 'main'}.") from error
    except HfHubHTTPError as error:
        raise explain(error, f"reading {name} of {repository!r} at revision {revision or 'main'}") from error


def read_config(location: Location, *, trust_remote_code: bool = False) -> "PreTrainedConfig":
    """Reads a model's configuration.

    Raises:
        ValueError: It cannot be read, or needs code from its repository that is not trusted.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            location.path, trust_remote_code=trust_remote_code, **location.loading_arguments
        )
    except (OSError, KeyError, StrictDataclassError) as error:
        raise ValueError(f"Cannot read the configuration of {location.name!r}: {error}") from error


def load_tokenizer(
    model: str,
    revision: str | None = None,
    gguf_file: str | None = None,
    *,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
) -> "PreTrainedTokenizerFast":
    """Loads a model's tokenizer from where `locate` finds the model.

    Returns:
        A fast tokenizer: one that gives each token's place in the text.

    Raises:
        ValueError: There is none, or it is not a fast one.
    """
    from transformers import AutoTokenizer

    location = locate(model, revision=revision, gguf_file=gguf_file, token=token)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location.path, trust_remote_code=trust_remote_code, **location.loading_arguments
        )
    except (OSError, KeyError, ValueError, ImportError, TypeError) as error:
        raise ValueError(f"{location.name!r} has no tokenizer that transformers can load: {error}") from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {location.name!r} is a slow one ({type(tokenizer).__name__}), which cannot tell where "
            "a token stands in the text. Use a model with a tokenizer.json."
        )
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Tensors read from a checkpoint.

    Attributes:
        by_name: The tensors under the names that the file, or for GGUF the model, gives them.
        sha256: The hash of their names, types, shapes and bytes as stored.
    """

    by_name: dict[str, Tensor]
    sha256: str


def read_safetensors(location: Location, wanted: Callable[[Collection[str]], Mapping[str, Rows]]) -> Tensors:
    """Reads some tensors of a safetensors checkpoint, from the files that hold them.

    Of a model on the Hub whose files are not in the cache, the tensors' own bytes are fetched (see `fetch_tensors`).

    Args:
        location: The model.
        wanted: Picks from all the tensors' names those to read, with the rows of each: the first so many of so many;
            None for all.

    Raises:
        ValueError: There is no safetensors file, one is damaged, or a tensor has another number of rows.
    """
    if location.commit and not _is_downloaded(location, wanted):
        path = fetch_tensors(location.path, location.commit, wanted, token=location.token)
        tensors = _tensors_of(path, lambda opened: {name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        return _hashed(tensors)
    try:
        index = json.loads(location.file(_INDEX).read_text())["weight_map"]
        picked = wanted(index)
        file_of = {name: location.file(index[name]) for name in picked}
    except FileNotFoundError as missing:
        if _INDEX not in str(missing):
            raise ValueError(f"A shard that {_INDEX} names is missing: {missing} Fetch the model again.") from missing
        path = _single_file(location)
        picked = wanted(_tensors_of(path, lambda opened: list(opened.keys())))
        file_of = dict.fromkeys(picked, path)
    except (KeyError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{_INDEX} of {location.name!r} is damaged ({error!r}). Fetch the model again.") from error
    tensors = {}
    for path in sorted(set(file_of.values())):
        mine = {name: picked[name] for name, file in sorted(file_of.items()) if file == path}
        tensors |= _tensors_of(
            path, lambda opened, mine=mine: {name: _read_rows(opened, name, rows) for name, rows in mine.items()}
        )
    return _hashed(tensors)


def _read_rows(opened: Any, name: str, rows: Rows) -> Tensor:
    if rows is None:
        return opened.get_tensor(name)
    lines = opened.get_slice(name)
    refuse_other_rows(name, lines.get_shape(), rows)
    return lines[: rows[0]]


def _hashed(tensors: dict[str, Tensor]) -> Tensors:
    stored = ((name, str(tensor.dtype), tensor) for name, tensor in sorted(tensors.items()))
    return Tensors(by_name=tensors, sha256=hash_tensors(stored))


def _is_downloaded(location: Location, wanted: Callable[[Collection[str]], Mapping[str, Rows]]) -> bool:
    """Whether the cache holds the model's own files, those of them at least that the wanted tensors are in."""

    def cached(name: str) -> str | None:
        path = try_to_load_from_cache(location.path, name, revision=location.commit)
        return path if isinstance(path, str) else None

    if index := cached(_INDEX):
        file_of = json.loads(Path(index).read_text())["weight_map"]
        return all(cached(file) for file in {file_of[name] for name in wanted(file_of)})
    return cached(_SINGLE) is not None


def _single_file(location: Location) -> Path:
    try:
        return location.file(_SINGLE)
    except FileNotFoundError as error:
        raise ValueError(
            f"{location.name!r} has neither {_SINGLE} nor {_INDEX}. Only safetensors and GGUF files are read: pickled "
            "checkpoints (.bin, .pt) can run code. Convert it with `save_pretrained`, or look for a converted copy."
        ) from error


def _tensors_of(path: Path, read: Callable[[Any], Any]) -> Any:
    try:
        with safe_open(path, framework="pt") as opened:
            return read(opened)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"The file {path.name} is damaged or cut short ({error}). Delete it and fetch the model again."
        ) from error


def hash_tensors(stored: Iterable[tuple[str, str, Tensor]]) -> str:
    """Hashes tensors, given as name, type as stored and values, in their order; returns hexadecimal sha256."""
    digest = sha256()
    for name, kind, tensor in stored:
        digest.update(f"{name} {kind} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
