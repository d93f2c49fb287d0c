"""The configurations that the package brings."""

from pathlib import Path

#: The recipes that the package brings, each by its name.
CONFIGS = Path(__file__).parent / "configs"


def find_config(path: str | Path) -> Path:
    """Returns the file of a configuration: itself, or the one of the package that has this name.

    Raises:
        ValueError: It is no file's name, and no recipe of the package is called so.
    """
    packaged = {file.stem: file for file in sorted(CONFIGS.glob("*.yaml"))}
    if Path(path).exists() or Path(path).suffix:
        return Path(path)
    if str(path) not in packaged:
        raise ValueError(f"There is no configuration {path}: give a YAML file, or one of {', '.join(packaged)}.")
    return packaged[str(path)]
