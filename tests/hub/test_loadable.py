"""What nobody could load is refused before anything is sent; images go up as their bytes."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Image, List, load_dataset
from PIL import Image as Picture

from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.hub.publishing import publish

REPO = "me/data"
N = Dataset.from_dict({"n": [1, 2]})


def unloadable():
    text, none = Dataset.from_dict({"text": ["a"]}), N.select([])
    return {
        "no rows": (none, "'train' has no rows"),
        "a split without rows": (DatasetDict({"train": N, "test": none}), "'test' has no rows"),
        "no splits": (DatasetDict(), "no splits"),
        "a split of other columns": (DatasetDict({"train": N, "test": text}), "'test' has other columns"),
        "a split of fewer columns": (DatasetDict({"train": N.add_column("m", [3, 4]), "test": N}), "other columns"),
        "a split of other types": (
            DatasetDict({"train": N, "test": Dataset.from_dict({"n": ["a"]})}),
            "other columns",
        ),
        "a split named all": (DatasetDict({"all": N}), "cannot be called 'all'"),
        "a split named ALL": (DatasetDict({"ALL": N}), "cannot be called 'ALL'"),
        "a split with a blank": (DatasetDict({"a b": N}), "cannot be called 'a b'"),
        "a split with a dash": (DatasetDict({"a-b": N}), "cannot be called 'a-b'"),
    }


@pytest.mark.parametrize("name", unloadable())
def test_a_dataset_that_nobody_could_load_is_refused(hub, name):
    source, message = unloadable()[name]
    with pytest.raises(ValueError, match=message):
        publish(source, REPO)
    assert not hub.log


def write_folder(folder, tables, *, configs, infos=""):
    """A folder of Parquet files as they are, with a card of this front matter."""
    for path, table in tables.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / path)
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}{infos}---\n{BEGIN}\nOurs\n{END}\n")
    return folder


def info(**splits):
    lines = "".join(
        f"  - name: {name}\n    num_examples: {count}\n    num_bytes: 1\n" for name, count in splits.items()
    )
    return f"dataset_info:\n- config_name: a\n  splits:\n{lines}"


def config(**splits):
    entries = "".join(f"  - split: {name}\n    path: {path}\n" for name, path in splits.items())
    return f"- config_name: a\n  data_files:\n{entries}"


def damaged():
    one, other, empty = pa.table({"n": [1]}), pa.table({"m": [1]}), pa.table({"n": pa.array([], pa.int64())})
    two = {"data/a/train-0.parquet": one, "data/a/test-0.parquet": one}
    both = config(train="data/a/train-*", test="data/a/test-*")
    return {
        "shards of other columns": (
            {"data/a/train-0.parquet": one, "data/a/train-1.parquet": other},
            dict(configs=config(train="data/a/train-*"), infos=info(train=2)),
            "data/a/train-1.parquet has other columns .*: m in place of n",
        ),
        "splits of other columns": (
            two | {"data/a/train-0.parquet": other},
            dict(configs=both, infos=info(train=1, test=1)),
            "data/a/test-0.parquet has other columns",
        ),
        "no rows": (
            {"data/a/train-0.parquet": empty},
            dict(configs=config(train="data/a/train-*"), infos=info(train=0)),
            "'a' has no rows, which nobody can load",
        ),
        "a split that is not stated": (
            two,
            dict(configs=both, infos=info(train=2)),
            r"has the splits and rows \{'train': 1, 'test': 1\}, the card's dataset_info says \{'train': 2\}",
        ),
        "a split named all": (
            {"data/a/all-0.parquet": one},
            dict(configs=config(all="data/a/all-*"), infos=info(all=1)),
            "has a split 'all'",
        ),
        "splits that datasets cannot read": (
            {"data/a/x-0.parquet": one},
            dict(configs="- config_name: a\n  data_files:\n  - split: a b\n    path: data/a/*\n", infos=info(x=1)),
            "datasets cannot read the card",
        ),
    }


@pytest.mark.parametrize("name", damaged())
def test_a_folder_that_nobody_could_load_is_refused(hub, tmp_path, name):
    tables, card, message = damaged()[name]
    with pytest.raises(ValueError, match=message):
        publish(write_folder(tmp_path, tables, **card), REPO)
    assert not hub.log


def test_types_that_datasets_casts_are_published_and_load(hub, tmp_path):
    tables = {
        "data/a/train-0.parquet": pa.table({"n": [1]}),
        "data/a/train-1.parquet": pa.table({"n": pa.array([2], pa.int32())}),
    }
    publish(write_folder(tmp_path, tables, configs=config(train="data/a/train-*"), infos=info(train=2)), REPO)
    assert load_dataset(REPO, "a", split="train")["n"] == [1, 2]


@pytest.fixture
def pictures(tmp_path):
    """Two small pictures on this disk; their colours."""
    folder = tmp_path / "my private folder"
    folder.mkdir()
    for number in (10, 200):
        Picture.fromarray(np.full((2, 3, 3), number, dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_pictures_given_by_path_are_published_with_their_bytes_and_without_their_folder(hub, pictures, nested):
    paths = [str(pictures / "10.png"), str(pictures / "200.png")]
    column = {"image": [[path] for path in paths] if nested else paths, "category": ["a", "b"]}
    whole = Dataset.from_dict(column).cast_column("image", List(Image()) if nested else Image())
    publish(whole, REPO)
    for shard in hub.repos["dataset", REPO].files.values():
        assert str(pictures).encode() not in shard and pictures.name.encode() not in shard
    for name, colour in {"a": 10, "b": 200}.items():
        (value,) = load_dataset(REPO, name, split="train")["image"]
        assert np.asarray(value[0] if nested else value).tolist() == [[[colour] * 3] * 3] * 2


def test_a_picture_that_is_gone_is_refused(hub, pictures):
    whole = Dataset.from_dict({"image": [str(pictures / "10.png")]}).cast_column("image", Image())
    (pictures / "10.png").unlink()
    with pytest.raises(ValueError, match="cannot be read: .*10.png"):
        publish(whole, REPO)
    assert not hub.log


@pytest.mark.parametrize("kept", ["path", "path beside bytes", "bytes"])
def test_a_folder_whose_pictures_are_paths_is_refused(hub, pictures, tmp_path, kept):
    buffer = io.BytesIO()
    Picture.open(pictures / "10.png").save(buffer, "PNG")
    value = {
        "bytes": None if kept == "path" else buffer.getvalue(),
        "path": "10.png" if kept == "bytes" else str(pictures / "10.png"),
    }
    features = Dataset.from_dict({"image": ["x"]}).cast_column("image", Image()).features
    schema = features.arrow_schema
    table = pa.table({"image": pa.array([value], schema.field("image").type)}, schema=schema)
    (tmp_path / "out").mkdir()
    folder = write_folder(
        tmp_path / "out", {"data/a/train-0.parquet": table}, configs=config(train="data/a/*"), infos=info(train=1)
    )
    if kept == "bytes":
        publish(folder, REPO)
        assert load_dataset(REPO, "a", split="train")["image"][0].size == (3, 2)
        return
    with pytest.raises(ValueError, match="holds paths of this machine in place of the bytes"):
        publish(folder, REPO)
    assert not hub.log
