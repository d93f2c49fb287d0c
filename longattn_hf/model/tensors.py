"""Reading a few named tensors out of a checkpoint: safetensors or GGUF, local or on the Hub."""

import json
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longattn_hf.model.byte_ranges import Rows, fetch_tensors, refuse_other_rows
from longattn_hf.model.gguf_fields import GgufFile, refuse_unread_attention
from longattn_hf.model.identity import stamp_of
from longattn_hf.model.location import Location, check_file_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# what reading past the end of a file, or through garbage in it, raises in gguf and numpy
_GGUF_ERRORS = (ValueError, IndexError, KeyError, OverflowError, MemoryError, OSError, struct.error)


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Tensors read from a checkpoint.

    Attributes:
        by_name: The tensors under the names that the file, or for GGUF the model, gives them.
        sha256: The hash of their names, types, shapes and bytes as stored.
    """

    by_name: dict[str, Tensor]
    sha256: str


def read_safetensors(location: Location, pick: Callable[[Collection[str]], Mapping[str, Rows]]) -> Tensors:
    """Reads some tensors of a safetensors checkpoint, from the files that hold them.

    Of a model on the Hub whose files are not in the cache, the tensors' own bytes are fetched (see `fetch_tensors`).

    Args:
        location: The model.
        pick: Picks from all the tensors' names those to read, with the rows of each: the first N of M;
            None for all.

    Raises:
        ValueError: There is no safetensors file, one is damaged, or a tensor has another number of rows.
    """
    if location.commit and not _is_downloaded(location, pick):
        path = fetch_tensors(location.path, location.commit, pick, token=location.token)
        tensors = _tensors_of(path, lambda opened: {name: opened.get_tensor(name) for name in opened.keys()})
        return _hashed(tensors)
    try:
        index = json.loads(location.file(_INDEX).read_text())["weight_map"]
        picked = pick(index)
        file_of = {name: location.file(check_file_name(index[name], location.name)) for name in picked}
    except FileNotFoundError as missing:
        if _INDEX not in str(missing):
            raise ValueError(f"A shard that {_INDEX} names is missing: {missing} Fetch the model again.") from missing
        path = _single_file(location)
        picked = pick(_tensors_of(path, lambda opened: list(opened.keys())))
        file_of = dict.fromkeys(picked, path)
    except (KeyError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{_INDEX} of {location.name!r} is damaged ({error!r}). Fetch the model again.") from error
    tensors = {}
    for path in sorted(set(file_of.values())):
        rows_of = {name: picked[name] for name, file in sorted(file_of.items()) if file == path}
        tensors |= _tensors_of(path, partial(_read_all, rows_of=rows_of))
    return _hashed(tensors)


def _read_all(opened: Any, rows_of: Mapping[str, Rows]) -> dict[str, Tensor]:
    return {name: _read_rows(opened, name, rows) for name, rows in rows_of.items()}


def _read_rows(opened: Any, name: str, rows: Rows) -> Tensor:
    if rows is None:
        return opened.get_tensor(name)
    lines = opened.get_slice(name)
    refuse_other_rows(name, lines.get_shape(), rows)
    return lines[: rows[0]]


def _hashed(tensors: dict[str, Tensor]) -> Tensors:
    stored = ((name, str(tensor.dtype), tensor) for name, tensor in sorted(tensors.items()))
    return Tensors(by_name=tensors, sha256=hash_tensors(stored))


def _is_downloaded(location: Location, pick: Callable[[Collection[str]], Mapping[str, Rows]]) -> bool:
    """Whether the cache holds the model's own files, those of them at least that the picked tensors are in."""

    def cached(name: str) -> str | None:
        path = try_to_load_from_cache(location.path, name, revision=location.commit)
        return path if isinstance(path, str) else None

    if index := cached(_INDEX):
        file_of = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        return all(cached(check_file_name(file, location.name)) for file in {file_of[name] for name in pick(file_of)})
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
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def open_gguf(location: Location) -> GgufFile:
    """Opens a model's GGUF file; the latest one is remembered, since reading through a vocabulary takes seconds.

    Raises:
        ValueError: It is damaged, or the package `gguf` is missing.
    """
    assert location.gguf_file, "the caller has seen that it is one"
    path = location.file(location.gguf_file)
    try:
        return _open_once(path, stamp_of(path))
    except ImportError as error:
        raise ValueError("Reading a GGUF file needs the package gguf: pip install 'gguf>=0.17'.") from error
    except _GGUF_ERRORS as error:
        raise ValueError(
            f"The file {location.gguf_file} is damaged or cut short ({error}). Delete it and fetch the model again."
        ) from error


@lru_cache(maxsize=1)
def _open_once(path: Path, stamp: tuple[int, ...]) -> GgufFile:
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        """Slices the file as a plain array of the same bytes: a memory map does a map's bookkeeping at each slice."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if name == "data" else value)

    reader = Reader(path)
    fields = {name: field for name, field in reader.fields.items() if field.types[:1] != [GGUFValueType.ARRAY]}
    return GgufFile({name: field.contents() for name, field in fields.items()}, reader.tensors)


def read_gguf(file: GgufFile, model: "PreTrainedModel", parameters: Collection[str]) -> Tensors:
    """Reads and dequantises the tensors of a GGUF file that hold the named `parameters` of `model`.

    Names, and the permutation of query and key rows in which llama.cpp stores some architectures, are undone by
    transformers' own tables.

    Raises:
        ValueError: The file holds more for the first queries and keys than the model has a place for.
    """
    from gguf import dequantize
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor_class = TENSOR_PROCESSORS.get(file.fields.get("general.architecture", ""), TensorProcessor)
    processor = processor_class(config=model.config.get_text_config().to_dict())
    name_of = get_gguf_hf_weights_map(model, processor)
    refuse_unread_attention([tensor.name for tensor in file.tensors], name_of)
    stored = sorted((t for t in file.tensors if name_of.get(t.name) in parameters), key=lambda tensor: tensor.name)
    tensors = {}
    for tensor in stored:
        weights = processor.process(dequantize(tensor.data, tensor.tensor_type), name=tensor.name).weights
        tensors[name_of[tensor.name]] = torch.tensor(weights)
    digest = hash_tensors((t.name, t.tensor_type.name, torch.tensor(t.data)) for t in stored)
    return Tensors(by_name=tensors, sha256=digest)
