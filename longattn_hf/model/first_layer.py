"""The queries and keys of a causal language model's first attention layer, and nothing else of the model."""

import warnings
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from longattn_hf.hub.repository import commit_folder
from longattn_hf.model.attention_hooks import AttentionCall, OutOfReachError, stop_at_attention
from longattn_hf.model.byte_ranges import Rows
from longattn_hf.model.device import pick_device, pick_dtype
from longattn_hf.model.gguf_fields import apply_gguf_fields, refuse_other_scale
from longattn_hf.model.layer_files import save_layer
from longattn_hf.model.loaded import title_of_kind
from longattn_hf.model.location import Location, ModelRef, locate, read_config
from longattn_hf.model.one_layer import build_one_layer, hash_settings
from longattn_hf.model.one_layer_loading import load_one_layer, pick_stored_names
from longattn_hf.model.rope import override_rope
from longattn_hf.model.snapshot import Snapshot
from longattn_hf.model.tensors import Tensors, open_gguf, read_gguf, read_safetensors


class FirstLayer:
    """A causal language model's first attention layer, from token ids to queries and keys.

    Attributes:
        config: The model's configuration, with one layer.
        num_heads: HQ, the query heads.
        num_kv_heads: HK, the key heads.
        head_dim: D.
        vocab_size: Token ids are below this.
        max_positions: The longest text the model was made for; None if it does not say.
        dtype: Of weights, queries and keys.
        device: Where they are.
        identity: What the layer is, for reports and fingerprints: model, revision, sha256 of the tensors read and of
            the layer's settings, dtype, RoPE settings, architecture. Plain JSON values.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        identity: dict[str, Any],
        *,
        location: Location | None,
        stored_names: Collection[str],
        rope_is_overridden: bool,
    ) -> None:
        self._model = model
        self._location = location
        self._stored_names = stored_names
        self.identity = identity
        try:
            weight: Tensor = model.get_input_embeddings().get_parameter("weight")
        except AttributeError as error:
            kind = model.config.model_type
            raise ValueError(
                f"The first layer of a {kind} model cannot be followed: its embedding: {error}"
            ) from error
        self.config: PreTrainedConfig = model.config
        self.vocab_size: int = weight.shape[0]
        self.dtype: torch.dtype = weight.dtype
        self.device: torch.device = weight.device
        self.max_positions: int | None = getattr(
            model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        self._warns_beyond_positions = not rope_is_overridden
        call = self._call(torch.arange(8)[None] % self.vocab_size)
        with torch.autocast(self.device.type, enabled=False):
            call.prove_plain()
        self.num_heads: int = call.q.shape[1]
        self.num_kv_heads: int = call.k.shape[1]
        self.head_dim: int = call.q.shape[3]

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        rope_theta: float | None = None,
        rope_scaling: Mapping[str, Any] | None = None,
        token: str | bool | None = None,
        trust_remote_code: bool = False,
    ) -> "FirstLayer":
        """Loads the first layer of a model, reading only the tensors that its queries and keys depend on.

        Args:
            model: A Hub id, a local directory, a GGUF file, or `package:NAME/FILE` for an installed package's file.
            revision: The Hub repository's branch, tag or commit; its commit is recorded.
            gguf_file: The GGUF file's name inside `model`.
            dtype: float32, bfloat16 or float16, or its name; if None, float32 on a CPU and bfloat16 elsewhere.
            device: If None, this process's GPU where there is one; see `pick_device`.
            rope_theta: A RoPE base in place of the model's own.
            rope_scaling: A RoPE scaling in place of the model's own, as in transformers' configurations, such as
                `{"rope_type": "yarn", "factor": 4.0}`.
            token: As for `huggingface_hub`.
            trust_remote_code: Whether to run modelling code from the repository.

        Raises:
            ValueError: The model cannot be found or read, or its first layer is not causal softmax attention.
        """
        device = pick_device(device)
        dtype = pick_dtype(dtype, device)
        location = locate(ModelRef(model, revision, gguf_file, token))
        gguf = open_gguf(location) if location.gguf_file else None
        config = read_config(location, trust_remote_code=trust_remote_code)
        if gguf:
            apply_gguf_fields(gguf, config, location.name, scaling_is_given=rope_scaling is not None)

        def read(network: PreTrainedModel, needed: Mapping[str, Rows], attention: str) -> Tensors:
            if gguf:
                return read_gguf(gguf, network, needed)
            return read_safetensors(
                location, lambda names: pick_stored_names(network, needed, names, attention=attention)
            )

        layer = cls._build(
            config, read, dtype, device, rope_theta, rope_scaling, location, trust_remote_code, renamed=bool(gguf)
        )
        if gguf:
            refuse_other_scale(gguf, layer.query_key(torch.zeros(1, 1, dtype=torch.int64))[2], location.name)
        return layer

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel | Snapshot,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        rope_theta: float | None = None,
        rope_scaling: Mapping[str, Any] | None = None,
    ) -> "FirstLayer":
        """Copies the first layer of a model that is loaded already, with the arguments of `from_pretrained`.

        Raises:
            ValueError: Its first layer is not causal softmax attention, or it is quantised or has adapters.
        """
        snapshot = model if isinstance(model, Snapshot) else Snapshot.of(model)
        device = pick_device(device)
        config, tensors = deepcopy(snapshot.config), snapshot.tensors
        dtype = pick_dtype(dtype, device)
        return cls._build(config, lambda *_: tensors, dtype, device, rope_theta, rope_scaling, renamed=True)

    @classmethod
    def _build(
        cls,
        config: PreTrainedConfig,
        read: Callable[[PreTrainedModel, Mapping[str, Rows], str], Tensors],
        dtype: torch.dtype,
        device: torch.device,
        rope_theta: float | None,
        rope_scaling: Mapping[str, Any] | None,
        location: Location | None = None,
        trust_remote_code: bool = False,
        *,
        renamed: bool,
    ) -> "FirstLayer":
        rope = override_rope(config, rope_theta, rope_scaling)
        # parameters made in inference mode could not be loaded in place
        with torch.inference_mode(False):
            network, needed, attention = build_one_layer(config, dtype, trust_remote_code=trust_remote_code)
            tensors = read(network, needed, attention)
            load_one_layer(network, needed, dict(tensors.by_name), device, renamed=renamed)
        identity = {
            "model": location.name if location else title_of_kind(type(network).__name__),
            "revision": location.commit if location else None,
            "sha256": tensors.sha256,
            "config_sha256": hash_settings(network.config),
            "dtype": str(dtype).removeprefix("torch."),
            "rope": rope,
            "rope_theta": rope_theta,
            "rope_scaling": dict(rope_scaling) if rope_scaling else None,
            "architecture": type(network).__name__,
        }
        # a layer that was saved on its own has the RoPE it was saved with
        changes = identity, getattr(config, "first_layer_of", {})
        changed = any(change.get(key) is not None for change in changes for key in ("rope_theta", "rope_scaling"))
        stored_names = list(tensors.by_name)
        return cls(network, identity, location=location, stored_names=stored_names, rope_is_overridden=changed)

    def save_pretrained(self, folder: str | Path, *, repo_id: str | None = None) -> None:
        """Saves the layer as a small model of its own, with the tokenizer and a card; `from_pretrained` loads it.

        The tensors are written as the model stores them, whatever `dtype` they were loaded in. RoPE settings that
        were given to `from_pretrained` are kept.

        Args:
            folder: Where to write.
            repo_id: The repository that the card is to name.

        Raises:
            ValueError: The layer was read from a GGUF file, which can be copied itself, or from a loaded model.
        """
        if self._location is None:
            raise ValueError("The layer is a loaded model's: save that, and load the layer from its folder.")
        save_layer(self._location, self._stored_names, self.config, self.identity, Path(folder), repo_id=repo_id)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload the first layer",
    ) -> str:
        """Publishes what `save_pretrained` writes as a model repository, in one commit.

        Args:
            repo_id: The repository, "owner/name"; it is created where it does not exist.
            token: A token with write permission; default: HF_TOKEN, or that of `hf auth login`.
            private: Whether a repository that is created is private; an existing one must agree.
            commit_message: The commit's title.

        Returns:
            The commit's hash.

        Raises:
            ValueError: The Hub refuses, the repository holds something else, such as a whole model, or the layer was
                read from a GGUF file.
            ConnectionError: The Hub cannot be reached.
            RuntimeError: What was read back differs from what was sent.
        """
        with TemporaryDirectory(prefix="longattn_hf-") as folder:
            self.save_pretrained(folder, repo_id=repo_id)
            mark = ("config.json", '"first_layer_of"')
            return commit_folder(
                Path(folder), repo_id, message=commit_message, mark=mark, token=token, private=private
            )

    def query_key(self, input_ids: Tensor) -> tuple[Tensor, Tensor, float]:
        """Computes the layer's queries and keys, after RoPE, and the factor that their product is multiplied by.

        Args:
            input_ids: int64 `[B, T]`, whole sequences without padding.

        Returns:
            q `[B, HQ, T, D]`, k `[B, HK, T, D]` and the scale: the map is causal softmax(scale * q k^T).

        Raises:
            ValueError: An id is outside the vocabulary, or (`OutOfReachError`) T is more than the layer can reach.
        """
        self._check_ids(input_ids)
        call = self._call(input_ids)
        if not call.reaches_everywhere():
            text = self.config.get_text_config(decoder=True)
            names = ("sliding_window", "attention_chunk_size")
            limits = {name: getattr(text, name) for name in names if getattr(text, name, None)}
            raise OutOfReachError(
                f"The first layer of {self.identity['model']!r} does not see all of a window of {input_ids.shape[1]} "
                f"tokens ({limits or 'its mask is not causal attention'}). Use windows that it sees in full, or a "
                "model whose first layer has full attention."
            )
        return call.q, call.k, float(call.scale)

    @torch.inference_mode()
    def _call(self, input_ids: Tensor) -> AttentionCall:
        # the caller's autocast would compute in another dtype than the identity says
        with torch.autocast(self.device.type, enabled=False):
            call = stop_at_attention(self._model, input_ids.to(self.device))
        assert call is not None, "the model was traced to an attention call"
        call.refuse_unless_plain()
        return call

    def _check_ids(self, input_ids: Tensor) -> None:
        if input_ids.ndim != 2 or input_ids.numel() == 0 or input_ids.is_floating_point():
            raise ValueError(f"input_ids must be integers [B, T], not {input_ids.dtype} {list(input_ids.shape)}.")
        low, high = (int(edge) for edge in torch.aminmax(input_ids))
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"Token id {low if low < 0 else high} is outside the vocabulary of {self.vocab_size} ids of "
                f"{self.identity['model']!r}. Were the ids made by another model's tokenizer?"
            )
        length = input_ids.shape[1]
        if self.max_positions is None or length <= self.max_positions:
            return
        if not self.identity["rope"]:
            raise ValueError(
                f"A window of {length} tokens is longer than the {self.max_positions} positions that "
                f"{self.identity['model']!r} has learned. Use shorter windows, or a model with RoPE."
            )
        if self._warns_beyond_positions:
            self._warns_beyond_positions = False
            warnings.warn(
                f"A window of {length} tokens is longer than the {self.max_positions} positions that "
                f"{self.identity['model']!r} was trained for, so its attention is not to be relied on. Pass "
                "rope_theta= or rope_scaling= to stretch them, or use shorter windows.",
                stacklevel=3,
            )
