"""Datasets whose rows all name their selection, staged in a build's folder, and what a reader finds there."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from datasets import Dataset, load_dataset

from longattn_hf.pipeline.folder import BuildFolder


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every byte of a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stage(folder: BuildFolder, selection: str, configurations: Sequence[str] = ("book", "code")) -> None:
    """Stages a dataset whose rows all name their selection."""
    configs = []
    for number, name in enumerate(configurations):
        path = folder.staging / "data" / name / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"selection": [selection] * (3 + number)}).to_parquet(path)
        configs.append(f"- config_name: {name}\n  data_files: data/{name}/train-*.parquet\n")
    (folder.staging / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n{selection}\n")
    (folder.staging / "figures").mkdir()
    (folder.staging / "figures" / f"{selection}.png").write_bytes(b"picture")


def read(path: Path, name: str) -> set[str] | None:
    """The selections that the rows of a configuration are of; None where there is no such dataset."""
    try:
        # `datasets` knows a folder's rows again by its card, which is the same here
        return set(load_dataset(str(path), name, split="train", cache_dir=mkdtemp(dir=path.parent))["selection"])
    except (ValueError, FileNotFoundError):
        return None
