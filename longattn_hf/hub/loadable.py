"""Whether `datasets` can load what is about to be published, found out before anything is sent."""

import logging
from collections.abc import Mapping
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.data_files import sanitize_patterns
from datasets.features.features import require_storage_embed
from datasets.info import DatasetInfosDict
from datasets.table import table_cast, table_visitor
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from longattn_hf.hub.patterns import matches
from longattn_hf.hub.repository import LocalFile

logger = logging.getLogger(__name__)


def check_card(card: str, where: str) -> tuple[MetadataConfigs, DatasetInfosDict]:
    """Reads a card's configurations as `datasets` does.

    Raises:
        ValueError: `datasets` cannot read them, so that nothing of the repository could be loaded.
    """
    try:
        data = DatasetCard(card.removeprefix("\ufeff")).data
        configurations = MetadataConfigs.from_dataset_card_data(data)
        # of two defaults, nothing can be loaded
        configurations.get_default_config_name()
        return configurations, DatasetInfosDict.from_dataset_card_data(data)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"datasets cannot read {where}: correct its front matter by hand ({reason})") from error


def check_loadable(card: str, files: Mapping[str, LocalFile]) -> None:
    """Refuses a card and files of which a reader could not load every configuration; warns of one without rows.

    Args:
        card: The dataset's card.
        files: Its files on disk, by their paths in the repository.

    Raises:
        ValueError: A split's name, its rows or the columns of a file are not what `datasets` demands, or images,
            audio or the like are given by path.
    """
    configurations, infos = check_card(card, "the card")
    for name, configuration in configurations.items():
        where = f"configuration {name!r}"
        rows, features = dict[str, int](), infos[name].features if name in infos else None
        for split, patterns in sanitize_patterns(configuration["data_files"]).items():
            if str(split).lower() == "all":
                raise ValueError(f"{where} has a split {str(split)!r}, which means all splits to datasets: rename it")
            paths = [path for path in sorted(files) if matches(path, patterns)]
            rows[str(split)] = sum(files[path].num_rows for path in paths)
            for path in paths:
                features = _check_columns(files[path], path, features)
        splits = (infos[name].splits if name in infos else None) or {}
        stated = {split: info.num_examples for split, info in splits.items()}
        if stated and stated != rows:
            raise ValueError(f"{where} has the splits and rows {rows}, the card's dataset_info says {stated}")
        if not any(rows.values()) and len(configurations) == 1:
            raise ValueError(f"{where} has no rows, which nobody can load: there is nothing to publish")
        if empty := [split for split, count in rows.items() if not count]:
            logger.warning("%s has no rows in %s: datasets refuses to load it", where, ", ".join(empty))


def _check_columns(file: LocalFile, path: str, features: Features | None) -> Features:
    schema = pq.read_schema(file.path)
    own = Features.from_arrow_schema(schema)
    try:
        table_cast(schema.empty_table(), (features or own).arrow_schema)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"{path} has other columns than the files and the card beside it: {', '.join(own)} in place of "
            f"{', '.join(features or own)}, or of other types. Give them a configuration of their own"
        ) from error
    if require_storage_embed(own):
        columns = [name for name, feature in own.items() if require_storage_embed(feature)]
        table_visitor(pq.read_table(file.path, columns=columns), partial(_refuse_paths, path))
    return features or own


def _refuse_paths(path: str, array: pa.Array, feature: object) -> None:
    if hasattr(feature, "embed_storage") and pa.types.is_struct(array.type):
        names = filter(None, array.field("path").to_pylist())
        if array.field("bytes").null_count > array.null_count or any("/" in name or "\\" in name for name in names):
            raise ValueError(
                f"{path} holds paths of this machine in place of the bytes of images, audio or the like: embed them "
                "first (datasets.table.embed_table_storage), or publish the Dataset itself"
            )
