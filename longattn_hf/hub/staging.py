"""A dataset in memory as the files of a Hub repository: Parquet shards and a short card."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, DatasetInfo, SplitDict, SplitInfo
from datasets.features.features import require_storage_embed
from datasets.info import DatasetInfosDict
from datasets.table import InMemoryTable, embed_table_storage
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from longattn_hf.columns import CATEGORY
from longattn_hf.files import write_parquet
from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.hub.layout import DATA, check_configuration

#: The Hub's own limit for a shard that its viewer and its users like to handle.
MAX_SHARD_BYTES = 500_000_000


def stage_dataset(dataset: Dataset | DatasetDict, folder: Path) -> None:
    """Writes a dataset as `data/<configuration>/<split>-*.parquet` and a README.md.

    A dataset with a `category` column becomes one configuration a category, any other one the configuration `default`.
    Images, audio and the like that are given by path are written with their bytes, and without this machine's folders.
    Row groups are those of `Dataset.to_parquet`: at most 100 MB, with a page index, as the Hub's viewer wants them.
    The bytes depend on the rows alone.

    Args:
        dataset: A `Dataset` (its split is called `train`), or a `DatasetDict` of splits.
        folder: An empty folder.

    Raises:
        ValueError: A category cannot name a configuration, or a split's name, columns or lack of rows would keep
            people from loading it.
        OSError: As `write_parquet`.
    """
    splits = dataset if isinstance(dataset, DatasetDict) else DatasetDict({"train": dataset})
    _check_splits(splits)
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


def _check_splits(splits: DatasetDict) -> None:
    if not splits:
        raise ValueError("the DatasetDict has no splits: there is nothing to publish")
    features = next(iter(splits.values())).features
    for name, split in splits.items():
        if not re.fullmatch(r"\w+(\.\w+)*", str(name)) or str(name).lower() == "all":
            raise ValueError(
                f"a split cannot be called {name!r}: it must be letters, digits, _ and . only, and not 'all', which "
                "means all splits to datasets; rename it"
            )
        if len(split) == 0:
            raise ValueError(f"the split {name!r} has no rows, and nobody could load it: leave it out")
        if split.features != features:
            raise ValueError(
                f"the split {name!r} has other columns than the first one ({split.features} in place of {features}), "
                "and nobody could load them together: publish it under another name, or make the columns the same"
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
            part = _embed(dataset.shard(count, index, contiguous=True))
            write_parquet(part, path, hint="Free some space, or let TMPDIR name another disk")
        # rows of very unequal length can still gather in one shard
        if count >= len(dataset) or all(path.stat().st_size <= MAX_SHARD_BYTES for path in paths):
            return paths
        for path in paths:
            path.unlink()
        count = min(2 * count, len(dataset))


def _embed(dataset: Dataset) -> Dataset:
    if not require_storage_embed(dataset.features):
        return dataset
    with _named_files():
        table = embed_table_storage(dataset.with_format("arrow")[:])
    return Dataset(InMemoryTable(table), info=dataset.info.copy())


def _size_in_memory(dataset: Dataset) -> int:
    if require_storage_embed(dataset.features):
        with _named_files():
            return dataset._estimate_nbytes()
    table = dataset.data
    return table.nbytes * len(dataset) // table.num_rows if table.num_rows else 0


@contextmanager
def _named_files() -> Iterator[None]:
    """Where images, audio and the like that a dataset gives by path are read."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"an image, audio or other file that the dataset names cannot be read: {error}") from error
