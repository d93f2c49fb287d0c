"""A model's first layer as a small model of its own: the files that another machine loads it from."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from longattn_hf.model.location import Location, ModelRef, read_config
from longattn_hf.model.one_layer import hash_settings, settings_of_one_layer
from longattn_hf.model.tensors import read_safetensors
from longattn_hf.model.tokenizer import load_tokenizer

_LICENSE = ("license", "license_name", "license_link")
_CARD = """
# First layer of {model}

The token embedding and the first layer's query and key projections (with their norms and biases, where it has any) of
`{model}`{at}. Nothing else of the model is here: it cannot generate text. It is what
[LongAttn](https://arxiv.org/abs/2502.16860) scores of long documents are computed from:

```python
from longattn_hf import LongAttnScorer

scorer = LongAttnScorer("{here}")
```

The tensors are those of the model, bit for bit, under their own names, so the model's licence applies to them.
{settings}
"""


def save_layer(
    location: Location,
    names: Collection[str],
    config: PreTrainedConfig,
    identity: Mapping[str, Any],
    folder: Path,
    *,
    repo_id: str | None = None,
) -> None:
    """Writes `config.json`, `model.safetensors`, the tokenizer and a model card to a folder.

    Args:
        location: Where the whole model is.
        names: The tensors to keep.
        config: Of the one layer; changes of RoPE stand in it.
        identity: What the layer is; it is kept in the configuration as `first_layer_of`.
        folder: Where to write; it is made.
        repo_id: The repository that the card is for; None for a local folder.

    Raises:
        ValueError: The layer comes from a GGUF file, or transformers does not read it again as it is.
    """
    if location.gguf_file:
        raise ValueError(f"{location.name!r} is a GGUF file: copy the file itself, or load the model's safetensors.")
    folder.mkdir(parents=True, exist_ok=True)
    origin = {key: identity[key] for key in ("model", "revision", "sha256", "rope_theta", "rope_scaling")}
    _write_config(config, origin, folder, identity)
    tensors = read_safetensors(location, lambda _: dict.fromkeys(names))
    save_file(tensors.by_name, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = load_tokenizer(ModelRef(location.path, location.commit, token=location.token))
    tokenizer.save_pretrained(folder)
    _write_card(location, origin, folder, repo_id)


def _write_config(
    config: PreTrainedConfig, origin: Mapping[str, Any], folder: Path, identity: Mapping[str, Any]
) -> None:
    written = settings_of_one_layer(config) | {"first_layer_of": origin}
    # where it was loaded from may be a path of this machine
    written.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    # code of the model's own is not here, and may not run
    if "auto_map" in written:
        return
    try:
        if hash_settings(read_config(Location(path=str(folder)))) == identity["config_sha256"]:
            return
        reason = "transformers makes another layer of its settings"
    except ValueError as error:
        reason = str(error)
    # some architectures want layers of several kinds, or make the last one, here the only one, of another kind
    raise ValueError(
        f"The first layer of {identity['model']!r} cannot be saved: a {config.model_type} model cannot be of that one "
        f"layer. Give the model itself. ({reason})"
    )


def _write_card(location: Location, origin: Mapping[str, Any], folder: Path, repo_id: str | None) -> None:
    try:
        theirs = ModelCard.load(location.file("README.md"), ignore_metadata_errors=True).data.to_dict()
    except FileNotFoundError:
        theirs = {}
    data = ModelCardData(
        **{key: theirs[key] for key in _LICENSE if key in theirs},
        base_model=origin["model"] if location.commit else None,
        library_name="longattn_hf",
        tags=["longattn", "first-layer"],
    )
    changed = {key: origin[key] for key in ("rope_theta", "rope_scaling") if origin[key] is not None}
    body = _CARD.format(
        model=origin["model"],
        at=f" at commit `{origin['revision']}`" if origin["revision"] else "",
        here=repo_id or folder.name,
        settings=f"\nThe configuration differs from the model's in: `{json.dumps(changed)}`." if changed else "",
    )
    (folder / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n{body.rstrip()}\n", encoding="utf-8")
