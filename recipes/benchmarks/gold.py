r"""Does a score predict what a language model gains from far context?

    python -m recipes.benchmarks.gold --windows 60 --minutes 60 --folder gold \
        --documents arxiv=arxiv.parquet book=book.parquet code=code.parquet

Measures windows of documents that nothing is fitted on, for as long as `--minutes` says and from where the last run
stopped.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from longattn_hf.model.language_model import load_language_model
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.settings import LocalPath, read_command_line, settings
from recipes.benchmarks.gold_windows import Stretches, choose_windows, measure_windows
from recipes.benchmarks.planted import CorpusConfig, read_documents
from recipes.benchmarks.planted_windows import Cutter
from recipes.benchmarks.splits import held_out_documents


@settings
class GoldConfig(CorpusConfig):
    """Which windows to measure, and how.

    Attributes:
        windows: The most windows of a category, each of a document of its own.
        dtype: The model's; None for float32 on a CPU and bfloat16 on a GPU.
        stretches: How many stretches of a window are measured.
        stretch_tokens: A stretch's length; an eighth of the window if None.
        near_tokens: How many tokens before a stretch are near to its first; likewise.
        minutes: How long to measure; 0 reads what is there.
        seed: Of the windows.
        folder: Where the measured windows are kept, one file each.
    """

    windows: int = 60
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    stretches: int = 3
    stretch_tokens: int | None = None
    near_tokens: int | None = None
    minutes: float = 600
    seed: int = 0
    folder: LocalPath = Path("gold")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures windows, then compares the scores with their gains."""
    try:
        config = read_command_line(GoldConfig, arguments, description=__doc__)
        measure(config)
    except (ValueError, OSError) as error:
        sys.exit(f"gold: {error}")


def measure(config: GoldConfig) -> None:
    """Measures what is not measured yet."""
    stretches = Stretches(
        window_tokens=config.window_tokens,
        count=config.stretches,
        tokens=config.stretch_tokens,
        near_tokens=config.near_tokens,
    )
    documents = held_out_documents(read_documents(config.documents))
    cutter = Cutter(
        tokenizer=load_tokenizer_once(config.model_ref), window_tokens=config.window_tokens, donors=documents
    )
    measured_with = {
        "model": Path(config.model).name if Path(config.model).exists() else config.model,
        "revision": config.revision,
        "gguf_file": config.gguf_file,
        "dtype": config.dtype,
        "window_tokens": config.window_tokens,
        "starts": stretches.starts,
        "stretch_tokens": stretches.length,
        "near_tokens": stretches.near,
        "seed": config.seed,
    }
    measure_windows(
        choose_windows(documents, cutter, per_category=config.windows, seed=config.seed),
        load_language_model(config.model_ref, dtype=config.dtype),
        stretches,
        measured_with,
        config.folder,
        minutes=config.minutes,
    )


if __name__ == "__main__":
    main()
