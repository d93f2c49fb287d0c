r"""What does a score prefer, and what does it keep that it should not? All controls and all junk, on one page.

    python -m recipes.benchmarks.preferences --documents book=books.parquet code=code.parquet \
        --scores far_gain echo gzip --gold gold.json --out preferences.json

Uses documents that nothing is fitted on (splits.py) alone. For every score and category:

- the controls of planted_windows.py and controls.py, as areas and shares of pairs, beside the bars of controls.py;
- junk (junk.py) in a pool of intact windows, eight for each of a kind: the share of it that the top eighth and the top
  half of the pool hold. Chance is 0.125 and 0.5;
- the share of intact windows that the score gives nothing: none, or 0;
- what `recipes.benchmarks.gold` found, where its file is given.

A JSON file holds all of it; beside it lies a page in Markdown that a person can read. The scores that run a whole
model are left out by default.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from longattn_hf.files import write_json, write_text
from longattn_hf.model.tokenizer import load_tokenizer_once
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, Several, read_command_line, settings
from recipes.benchmarks.controls import all_kinds, bars_for
from recipes.benchmarks.environment import RESULTS
from recipes.benchmarks.junk import plant_junk
from recipes.benchmarks.planted import CorpusConfig, compare, model_of, read_documents, score_windows
from recipes.benchmarks.planted_windows import INTACT, Cutter, plant
from recipes.benchmarks.preferences_page import render_page
from recipes.benchmarks.splits import held_out_documents
from recipes.scores import CHEAP_SCORES, SCORES

_INTACT_FOR_ONE_OF_JUNK = 8
_WINDOWS_A_DOCUMENT = 4


@settings
class PreferencesConfig(CorpusConfig):
    """The documents, the model and the scores.

    Attributes:
        windows: The most intact windows of a category with controls.
        pool: The most intact windows of a category in the pool with junk, at most four of a document.
        junk: How many windows of each kind of junk are made for a category.
        kinds: The kinds of controls; all if None.
        dtype: The model's; None lets each score decide.
        scores: The scores to look at.
        far_gain_calibration: A file for `far_gain`; the package's own if None.
        gold: A file of `recipes.benchmarks.gold` to quote.
        seed: Of all windows.
        note: A sentence for the page, such as what the documents are.
        out: The JSON file to write, with the page beside it.
    """

    windows: int = 16
    pool: int = 56
    junk: int = 8
    kinds: Several[str] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    scores: Several[Literal[*SCORES]] = CHEAP_SCORES
    far_gain_calibration: str | None = None
    gold: LocalPath | None = None
    seed: int = 0
    note: str | None = None
    out: LocalPath = RESULTS / "preferences-demo.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs from the command line."""
    with refusing("preferences"):
        config = read_command_line(PreferencesConfig, arguments, description=__doc__)
        report = measure(config)
    write_json(config.out, report)
    write_text(config.out.with_suffix(".md"), render_page(report))
    print(f"wrote {config.out} and {config.out.with_suffix('.md')}")


def measure(config: PreferencesConfig) -> dict[str, Any]:
    """Plants and scores all windows, and compares."""
    windows = Dataset.from_list(list(plant_windows(config)))
    model = model_of(config, config.dtype, config.far_gain_calibration)
    columns, costs = score_windows(windows, config.scores, model, config.window_tokens)
    # no score is the lowest
    columns = {name: np.nan_to_num(values, nan=-np.inf) for name, values in columns.items()}
    sides = np.array(windows["side"])
    planted = np.flatnonzero((sides != "junk") & (sides != "pool"))
    comparisons = list(
        compare(
            windows.select(planted),
            {name: values[planted] for name, values in columns.items()},
            config.window_tokens,
            all_kinds(config.window_tokens),
            bars_for(config.window_tokens),
        )
    )
    return {
        "note": config.note,
        "model": Path(config.model).name,
        "window_tokens": config.window_tokens,
        "seed": config.seed,
        "documents": "held out",
        "windows": len(windows),
        "costs": costs,
        "comparisons": comparisons,
        "junk": list(share_kept(windows, columns)),
        "refused": list(share_refused(windows, columns)),
        "gold": json.loads(config.gold.read_text(encoding="utf-8"))["scores"] if config.gold else None,
    }


def plant_windows(config: PreferencesConfig) -> Iterator[dict[str, Any]]:
    """Yields the controls with their intact windows, the pool's further intact windows (side `pool`), and the junk."""
    documents = held_out_documents(read_documents(config.documents))
    tokenizer = load_tokenizer_once(config.model_ref)
    yield from plant(
        documents,
        tokenizer,
        window_tokens=config.window_tokens,
        per_category=config.windows,
        seed=config.seed,
        kinds=config.kinds,
        available=all_kinds(config.window_tokens),
    )
    for category in sorted({document.category for document in documents}):
        group = [document for document in documents if document.category == category]
        cutter = Cutter(tokenizer=tokenizer, window_tokens=config.window_tokens, donors=group)
        for pair in range(min(config.pool, _WINDOWS_A_DOCUMENT * len(group))):
            document = group[pair % len(group)]
            ids = cutter.cut(document, config.window_tokens, np.random.default_rng([config.seed, 6, pair]))
            if ids is not None:
                row = {"id": f"{category}/{pair}/pool", "doc_id": document.id, "category": category, "pair": pair}
                yield row | {"kind": INTACT, "side": "pool", "input_ids": ids, "text": tokenizer.decode(ids)}
        yield from plant_junk(group, cutter, category=category, count=config.junk, seed=config.seed)


def share_kept(windows: Dataset, columns: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yields for every score, category and kind of junk the share of it in the top eighth and half of a pool.

    The pool is the category's intact windows and at most an eighth as many of the kind; equal scores share a place.
    """
    categories, kinds, sides = (np.array(windows[name]) for name in ("category", "kind", "side"))
    texts = windows["text"]
    for category in sorted(set(categories)):
        intact = np.flatnonzero((categories == category) & (sides == "pool"))
        for kind in dict.fromkeys(kinds[(categories == category) & (sides == "junk")]):
            junk = np.flatnonzero((categories == category) & (sides == "junk") & (kinds == kind))
            junk = junk[: max(len(intact) // _INTACT_FOR_ONE_OF_JUNK, 1)]
            for name, values in columns.items():
                eighth, half = (chance_of_top(values[intact], values[junk], share) for share in (1 / 8, 1 / 2))
                first = texts[int(junk[np.argmax(eighth)])] if eighth.max() > 0.5 else None
                yield {
                    "score": name,
                    "category": category,
                    "kind": str(kind),
                    "windows": len(junk),
                    "top_eighth": float(eighth.mean()),
                    "top_half": float(half.mean()),
                    "example": first[:160] if first else None,
                }


def chance_of_top(intact: np.ndarray, junk: np.ndarray, share: float) -> np.ndarray:
    """The chance of each window of junk to be in the top of both, windows of equal scores being drawn by lot."""
    pool = np.concatenate([intact, junk])
    places = share * len(pool)
    above = (pool[None] > junk[:, None]).sum(axis=1)
    equal = (pool[None] == junk[:, None]).sum(axis=1)
    return np.clip((places - above) / equal, 0, 1)


def share_refused(windows: Dataset, columns: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yields for every score and category the share of intact windows that it gives 0 or nothing."""
    categories, sides = np.array(windows["category"]), np.array(windows["side"])
    for category in sorted(set(categories)):
        here = (categories == category) & (sides == "pool")
        for name, values in columns.items():
            refused = float(((values[here] == 0) | np.isneginf(values[here])).mean())
            yield {"score": name, "category": category, "windows": int(here.sum()), "share": refused}


if __name__ == "__main__":
    main()
