"""A dataset in memory as the files of a Hub repository: Parquet shards and a short card."""

import re
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from longattn_hf.columns import CATEGORY
from longattn_hf.files import write_parquet
from longattn_hf.hub.card_merge import BEGIN, END

#: The Hub's own limit for a shard that its viewer and its users like to handle.
MAX_SHARD_BYTES = 500_000_000
#: The folder of a dataset that holds its rows, a folder for each configuration.
DATA = "data"


def stage_dataset(dataset: Dataset | DatasetDict, folder: Path) -> None:
    """Writes a dataset as `data/<configuration>/<split>-*.parquet` and a README.md.

    A dataset with a `category` column becomes one configuration a category, any other one the configuration `default`.
    Row groups are those of `Dataset.to_parquet`: at most 100 MB, with a page index, as the Hub's viewer wants them.
    The bytes depend on the rows alone.

    Args:
        dataset: A `Dataset` (its split is called `train`), or a `DatasetDict` of splits.
        folder: An empty folder.

    Raises:
        ValueError: A category cannot name a configuration.
        OSError: As `write_parquet`.
    """
    splits = dataset if isinstance(dataset, DatasetDict) else DatasetDict({"train": dataset})
    infos, configs = DatasetInfosDict(), MetadataConfigs()
    for split, whole in splits.items():
        for name, part in _configurations(whole):
            paths = _write_shards(part, folder / DATA / name, split)
            pattern = {"split": split, "path": f"{DATA}/{name}/{split}-*.parquet"}
            configs.setdefault(name, {"data_files": []})["data_files"].append(pattern)
            info = infos.setdefault(name, DatasetInfo(config_name=name, features=part.features, splits=SplitDict()))
            size = sum(path.stat().st_size for path in paths)
            info.splits.add(SplitInfo(split, num_bytes=_size_in_memory(part), num_examples=len(part)))
            info.download_size = (info.download_size or 0) + size
            info.dataset_size = (info.dataset_size or 0) + _size_in_memory(part)
    data = DatasetCardData()
    infos.to_dataset_card_data(data)
    configs.to_dataset_card_data(data)
    body = f"# Long documents\n\n{BEGIN}\nPublished with `longattn_hf`.\n{END}\n"
    (folder / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n{body}", encoding="utf-8")


def check_configuration(name: object, remedy: str) -> None:
    """Checks that a category can name a configuration, and with it a folder.

    Raises:
        ValueError: It cannot; says what can, and the remedy.
    """
    # as long as a file system's names may be, in any script
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > 200:
        raise ValueError(
            f"the category {name!r} cannot name a configuration: it must be letters, digits, _, . and - only; {remedy}"
        )


def _configurations(dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    if CATEGORY not in dataset.column_names:
        yield "default", dataset
        return
    categories = np.asarray(dataset.with_format("arrow")[CATEGORY].to_pylist(), dtype=object)
    for name in dict.fromkeys(categories):
        check_configuration(name, "rename it, or drop the column to publish one configuration")
        yield str(name), dataset.select(np.flatnonzero(categories == name))


def _write_shards(dataset: Dataset, folder: Path, split: str) -> list[Path]:
    count = max(1, ceil(_size_in_memory(dataset) / MAX_SHARD_BYTES))
    while True:
        paths = [folder / f"{split}-{index:05d}-of-{count:05d}.parquet" for index in range(count)]
        for index, path in enumerate(paths):
            part = dataset.shard(count, index, contiguous=True)
            write_parquet(part, path, hint="Free some space, or let TMPDIR name another disk")
        # rows of very unequal length can still gather in one shard
        if count >= len(dataset) or all(path.stat().st_size <= MAX_SHARD_BYTES for path in paths):
            return paths
        for path in paths:
            path.unlink()
        count = min(2 * count, len(dataset))


def _size_in_memory(dataset: Dataset) -> int:
    table = dataset.data
    return table.nbytes * len(dataset) // table.num_rows if table.num_rows else 0
