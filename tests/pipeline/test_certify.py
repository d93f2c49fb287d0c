"""Builds whose cut is certified: few windows scored exactly, and what they all would keep."""

import json
import random
import shutil

import numpy as np
import pytest
import yaml
from datasets import Dataset, load_dataset

import longattn_hf.pipeline.certify as certify
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.run import build
from longattn_hf.pipeline.shards import read_shard

WORDS = [
    "the",
    "far",
    "tokens",
    "of",
    "a",
    "long",
    "document",
    "matter",
    "more",
    "than",
    "you",
    "think",
    "42",
    "(see)",
]
CATEGORIES = ("book", "code")
WINDOWS = 24


def document(number):
    chance = random.Random(number)
    # two kinds far apart, so that samples part them: a cut between them hangs on few windows, one inside on more
    words = WORDS[:2] if number % 4 == 0 else WORDS
    return " ".join(chance.choices(words, k=110))


@pytest.fixture(scope="module")
def recipe(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    sources = []
    for at, category in enumerate(CATEGORIES):
        rows = [{"text": document(100 * at + i)} for i in range(WINDOWS)]
        Dataset.from_list(rows).to_parquet(folder / f"{category}.parquet")
        sources.append({"category": category, "path": "parquet", "data_files": str(folder / f"{category}.parquet")})
    path = folder / "certified.yaml"
    common = {"name": "certified", "model": str(tiny_llama), "window_tokens": 256, "documents_per_shard": 8}
    path.write_text(yaml.safe_dump(common | {"fraction": 0.25, "certify": True, "sources": sources}))
    return path


def run(recipe, output, **overrides):
    return build(load_config(recipe, {"output_dir": str(output)} | overrides))


def table(output):
    return load_dataset(str(output), "scores", split="train").to_pandas().set_index("id")


def results(output):
    paths = [path for path in output.rglob("*") if path.is_file() and "work" not in path.relative_to(output).parts]
    # figures hold no times, and are the same too
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths if path.name != ".build.json"}


@pytest.fixture(scope="module")
def exact(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("exact") / "out"
    run(recipe, output, certify=False)
    return table(output)


@pytest.fixture(scope="module")
def certified(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("certified") / "out"
    return output, run(recipe, output)


def test_x(certified, exact):
    output, result = certified
    t = table(output)
    print(
        exact.groupby("category")[["dependency_strength", "distribution_uniformity", "long_distance_score"]].agg(
            ["mean", "std"]
        )
    )
    print(t.groupby(["category", "row_fraction", "kept"]).size())
    for c, g in exact.groupby("category"):
        print(sorted(g["long_distance_score"].round(2)), len(g))
    print(
        t[["dependency_strength_standard_error", "distribution_uniformity_standard_error"]]
        .groupby(t["row_fraction"])
        .mean()
    )
    print((t["kept"] == exact["kept"]).mean(), result.report.certificate)
    assert 0
