"""Reading a few parameters of a model out of a GGUF file."""

import struct
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from longattn_hf.model.tensors import Location, Tensors, hash_tensors

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

# what reading past the end of a file, or through garbage in it, raises in gguf and numpy
_GGUF_ERRORS = (ValueError, IndexError, KeyError, OverflowError, MemoryError, OSError, struct.error)


def open_gguf(location: Location) -> "GGUFReader":
    """Opens a model's GGUF file.

    Raises:
        ValueError: It is damaged, or the package `gguf` is missing.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ValueError("Reading a GGUF file needs the package gguf: pip install 'gguf>=0.17'.") from error
    path = location.file(location.gguf_file)
    try:
        return GGUFReader(path)
    except _GGUF_ERRORS as error:
        raise ValueError(
            f"The file {location.gguf_file} is damaged or cut short ({error}). Delete it and fetch the model again."
        ) from error


def read_gguf(reader: "GGUFReader", model: "PreTrainedModel", wanted: Collection[str]) -> Tensors:
    """Reads and dequantises the tensors of a GGUF file that hold the parameters `wanted` of `model`.

    Names, and the permutation of query and key rows in which llama.cpp stores some architectures, are undone by
    transformers' own tables.
    """
    from gguf import dequantize
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor_class = TENSOR_PROCESSORS.get(_gguf_field(reader, "general.architecture"), TensorProcessor)
    processor = processor_class(config=model.config.get_text_config().to_dict())
    name_of = get_gguf_hf_weights_map(model, processor)
    stored = sorted((t for t in reader.tensors if name_of.get(t.name) in wanted), key=lambda tensor: tensor.name)
    tensors = {}
    for tensor in stored:
        weights = processor.process(dequantize(tensor.data, tensor.tensor_type), name=tensor.name).weights
        tensors[name_of[tensor.name]] = torch.tensor(weights)
    sha256 = hash_tensors((t.name, t.tensor_type.name, torch.tensor(t.data)) for t in stored)
    return Tensors(by_name=tensors, sha256=sha256)


def gguf_rope_scaling(reader: "GGUFReader") -> str | None:
    """Names what a GGUF file says of RoPE scaling, which transformers does not read; None where it says nothing."""
    factors = [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_f")]
    kind = _gguf_field(reader, f"{_gguf_field(reader, 'general.architecture')}.rope.scaling.type")
    if factors:
        return f"the tensor {factors[0]}"
    return f"rope.scaling.type = {kind!r}" if kind not in (None, "none") else None


def _gguf_field(reader: "GGUFReader", name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()
