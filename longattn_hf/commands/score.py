"""`longattn score FILES... --scorer NAME -o OUT.parquet`: adds scores to the rows of any files."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.baselines.by_name import LONGATTN, make_scorer, ranking_column, takes
from longattn_hf.columns import CATEGORY, INPUT_IDS, LONG_DISTANCE_SCORE, SKIP_REASON, TEXT
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import Texts, read_command_line, settings
from longattn_hf.pipeline.terminal import OUTPUT, Output
from longattn_hf.selection.cautions import count_reasons
from longattn_hf.selection.standardisation import RAW_SCORES

if TYPE_CHECKING:
    from datasets import Dataset

_BYTES_A_TOKEN = 4


@settings
class ScoreSettings:
    """Adds scores to the rows of Parquet or JSON-lines files, and writes them as one Parquet file.

    Every row is scored as it is; with window_tokens, documents are cut into windows of equal length first, without
    which scores of attention do not compare.

        longattn score docs.jsonl -o scored.parquet
        longattn score a.jsonl --tokenizer ORG/MODEL --window_tokens 8192 -o b.parquet
        longattn score a.parquet --scorer longattn --model ORG/MODEL -o b.parquet

    Attributes:
        files: Parquet (.parquet) or JSON-lines files (.jsonl, .json), compressed ones too.
        output: The Parquet file to write, here or in a store: s3://bucket/scored.parquet.
        scorer: One scorer or several: longattn, echo, far_gain, word_gain, compression_gain, kind, gzip, length,
            random, loss_gain, prolong, ladm, deep, deep_far.
        model: The model of scorers that need one: a Hub id, a folder, a GGUF file, or package:NAME/FILE.
        tokenizer: The tokenizer that counts and cuts; the model's if not given.
        window_tokens: Cut documents into windows of this many tokens.
        settings: Further settings of the scorers, as a mapping, such as '{min_distance: 2048}'.
        text_column: The column that holds the texts.
        category: The category of all rows, for files without a column of that name.
        on_error: What a row that cannot be scored does: raise, or skip with a reason in the column skip_reason.
        batch_size: Rows scored together.
    """

    files: Texts
    output: str
    scorer: Texts = field(default_factory=lambda: ["far_gain"])
    model: str | None = None
    tokenizer: str | None = None
    window_tokens: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    text_column: str = "text"
    category: str | None = None
    on_error: Literal["raise", "skip"] = "skip"
    batch_size: int = 16


def score_files(given: ScoreSettings) -> "tuple[Dataset, dict[str, Any]]":
    """Returns the scored rows, and notes: how tokens were counted, which columns are scores, LongAttn's settings.

    What files say of scores that they have already is kept, and what is new stands behind it.

    Raises:
        ValueError: A setting, a file or, with `on_error="raise"`, a row is not as it should be, or LongAttn scored
            the files with several settings.
    """
    from longattn_hf.commands.tables import find_files, read_notes, read_rows
    from longattn_hf.pipeline.scored_with import SCORED_WITH

    if given.batch_size < 1:
        raise ValueError(f"batch_size={given.batch_size} must be at least 1.")
    scorers = [make_scorer(name, _settings_of(name, given)) for name in given.scorer]
    rows = read_rows(given.files)
    if given.text_column not in rows.column_names and INPUT_IDS not in rows.column_names:
        raise ValueError(
            f"There is no column {given.text_column!r}; the columns are {', '.join(rows.column_names)}. Name the "
            "texts' column with --text_column."
        )
    if given.category is not None and CATEGORY not in rows.column_names:
        rows = rows.add_column(CATEGORY, [given.category] * len(rows))
    before = {file: read_notes([file]) for file in find_files(given.files)}
    # that another scorer gave a row none is no reason for these, nor for windows to be cut of it
    rows, earlier = _without_reasons(rows)
    rows, counted = _with_num_tokens(rows, given, before)
    there = [] if given.window_tokens is not None else _scores_there(rows, before)
    scores = [*dict.fromkeys([*there, *map(ranking_column, given.scorer)])]
    notes: dict[str, Any] = {"num_tokens": counted, "scores": scores}
    if LONGATTN in given.scorer:
        longattn = scorers[given.scorer.index(LONGATTN)]
        notes["longattn"] = {name: getattr(longattn, name) for name in SCORED_WITH}
    elif {*RAW_SCORES} <= {*rows.column_names} and (known := _settings_there(before)):
        notes["longattn"] = known
    reasons = []
    for scorer in scorers:
        rows, own = _without_reasons(rows.map(scorer, batched=True, batch_size=given.batch_size))
        reasons.append(own)
    if given.window_tokens is None and earlier is not None:
        reasons.append(_still_true(rows, earlier, there))
    if found := [column for column in reasons if column is not None]:
        # as a build says: the reason of the first scorer that gives one
        rows = rows.add_column(SKIP_REASON, pc.coalesce(*found))
    return rows, notes


def _without_reasons(rows: "Dataset") -> "tuple[Dataset, pa.ChunkedArray | None]":
    """Takes the reasons why rows have no score out of them; None where there are none."""
    if SKIP_REASON not in rows.column_names:
        return rows, None
    reasons = rows.select_columns([SKIP_REASON]).with_format("arrow")[:][SKIP_REASON]
    return rows.remove_columns([SKIP_REASON]), reasons.cast(pa.string())


def _still_true(rows: "Dataset", reasons: pa.ChunkedArray, scores: Sequence[str]) -> pa.ChunkedArray:
    """Returns reasons of earlier scores without those of rows that have all of these by now."""
    columns = [RAW_SCORES[0] if name == LONG_DISTANCE_SCORE else name for name in scores]
    if not columns:
        return reasons
    table = rows.select_columns(columns).with_format("arrow")[:]
    complete = reduce(pc.and_, (pc.is_valid(table[name]) for name in columns))
    return pc.if_else(complete, pa.scalar(None, pa.string()), reasons)


def _scores_there(rows: "Dataset", before: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the columns of scores that files note and have, LongAttn's among them where it has its two."""
    columns = {*rows.column_names} | ({LONG_DISTANCE_SCORE} if {*RAW_SCORES} <= {*rows.column_names} else set())
    return [name for notes in before.values() for name in notes.get("scores", []) if name in columns]


def _settings_there(before: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what LongAttn scored files with, as their notes or their builds say.

    Raises:
        ValueError: The files do not say the same.
    """
    from longattn_hf.pipeline.scored_with import SCORED_WITH, scored_with

    known = {file: scored_with(file, notes) for file, notes in before.items()}
    first, *others = known.values()
    if any(other != first for other in others):
        listed = "; ".join(f"{file} with {settings or 'what it does not say'}" for file, settings in known.items())
        raise ValueError(f"LongAttn scored the files with several settings: {listed}. Give those of one at a time.")
    return {name: first.get(name) for name in SCORED_WITH} if first else {}


def _settings_of(name: str, given: ScoreSettings) -> dict[str, Any]:
    # the text of windows that are cut here has a name of its own
    texts = given.text_column if given.window_tokens is None else TEXT
    values: dict[str, Any] = {"text_column": texts, "on_error": given.on_error, **given.settings}
    if given.model and takes(name, "model"):
        values["model"] = given.model
    return {n: v for n, v in values.items() if takes(name, n) or n in given.settings}


def _with_num_tokens(
    rows: "Dataset", given: ScoreSettings, before: Mapping[str, Mapping[str, Any]]
) -> "tuple[Dataset, str]":
    """Cuts windows where that is asked for, and counts tokens where nobody did; says how they were counted."""
    tokenizer = given.tokenizer or given.model
    if given.window_tokens is not None:
        if tokenizer is None:
            raise ValueError("window_tokens needs a tokenizer to count with: give --tokenizer or --model.")
        from longattn_hf.windows import WindowDocuments

        cut = WindowDocuments(
            tokenizer=tokenizer,
            window_tokens=given.window_tokens,
            text_column=given.text_column,
            on_error=given.on_error,
        )
        return rows.map(cut, batched=True, batch_size=16, remove_columns=rows.column_names), tokenizer
    if "num_tokens" in rows.column_names:
        counted = {notes.get("num_tokens", "the file's own column") for notes in before.values()}
        # where some are estimated, that is said first
        return rows, "; ".join(sorted(counted, key=lambda how: (not how.startswith("estimated"), how)))
    if INPUT_IDS in rows.column_names:
        return rows.map(lambda row: {"num_tokens": len(row[INPUT_IDS] or ())}), "the file's own ids"
    texts = given.text_column
    if tokenizer:
        from longattn_hf.model.location import ModelRef
        from longattn_hf.model.tokenizer import load_tokenizer_once, tokenise

        loaded = load_tokenizer_once(ModelRef(tokenizer))
        # no `map`: to hash a function that knows a tokenizer takes minutes
        counts = [
            len(ids)
            for batch in rows.select_columns(texts).iter(64)
            for ids in tokenise(loaded, [_text_of(value) for value in batch[texts]])["input_ids"]
        ]
        return rows.add_column("num_tokens", pa.array(counts, pa.int64())), tokenizer

    def estimate(row: dict[str, Any]) -> dict[str, int]:
        return {"num_tokens": -(-len(_text_of(row[texts]).encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN)}

    return rows.map(estimate), f"estimated as one a {_BYTES_A_TOKEN} bytes"


def _text_of(value: Any) -> str:
    """Returns a text to count; of anything else, of which the scorers say what it is, an empty one."""
    return value if isinstance(value, str) else ""


def main(arguments: list[str] | None = None) -> None:
    """Runs from the command line."""
    output = Output.read(arguments)
    with refusing("score"):
        given = read_command_line(
            ScoreSettings, arguments, positional=("files",), short={"output": "o"}, parents=[OUTPUT]
        )
        from longattn_hf.commands.tables import check_output, write_rows

        with output.speaking():
            path = check_output(given.output, given.files)
            rows, notes = score_files(given)
            write_rows(rows, path, notes)
    skipped = count_reasons(filter(None, rows[SKIP_REASON]) if SKIP_REASON in rows.column_names else ())
    lines = [f"{path}: {len(rows):,} rows, scores {', '.join(notes['scores'])}; tokens: {notes['num_tokens']}"]
    lines += [f"{count:,} without a score: {reason}" for reason, count in skipped.items()]
    output.show("\n  ".join(lines), {"output": path, "rows": len(rows), "skipped": skipped, **notes})


if __name__ == "__main__":
    main()
