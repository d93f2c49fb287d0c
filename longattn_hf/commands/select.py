"""`longattn select SCORED.parquet --token_budget N`: keeps the best rows of a scored file."""

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.columns import CATEGORY, LONG_DISTANCE_SCORE
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import Texts, read_command_line, settings
from longattn_hf.pipeline.terminal import OUTPUT, Output
from longattn_hf.selection.cut import LIMITS, Selection
from longattn_hf.selection.standardisation import RAW_SCORES, ScoreStatistics

if TYPE_CHECKING:
    from datasets import Dataset


@settings
class SelectSettings:
    """Keeps the rows with the highest scores of each category, and writes them as Parquet.

        longattn select scored.parquet --token_budget 1e9 -o kept.parquet
        longattn select scored.parquet --score far_gain --fraction 0.125

    Attributes:
        files: What `longattn score` wrote, or other Parquet or JSON-lines files with a column of scores.
        output: The file to write; the first file's name with -kept at its end if not given.
        score: The column that ranks, larger being better, or a mapping of columns to weights, which sums their
            Z-scores within each category; the file's first score if not given.
        threshold: Keep rows whose score is above it; a number, or one for each category.
        fraction: Keep this share of the rows; a number, or one for each category.
        token_budget: Keep the best rows as long as their tokens sum to no more than this; a number, or one for each
            category.
        total_token_budget: Keep so many tokens of all categories together, about the same share of each.
        alpha: The weight of the distribution uniformity in LongAttn's score.
        by: The categories' column; null for one category.
        refuse_overlap: Leave out windows that share tokens with better ones.
        combine: What a weighted sum is of: zscore or rank.
        gate: The least values that rows may have in other columns, as a mapping, such as '{kind: 0}'.
        temperature: Above 0, rows are drawn at random, the better the likelier; 0 keeps the best.
        seed: Of that draw.
        statistics: A statistics.json to put LongAttn's score on its scale.
        convention: How LongAttn's scores are read: paper, reference_code or reference_code_causal; as the files were
            scored if not given.
    """

    files: Texts
    output: str | None = None
    score: str | dict[str, float] | None = None
    threshold: float | dict[str, float] | None = None
    fraction: float | dict[str, float] | None = None
    token_budget: int | dict[str, int] | None = None
    total_token_budget: int | None = None
    alpha: float = 0.5
    by: str | None = CATEGORY
    refuse_overlap: bool = False
    combine: Literal["zscore", "rank"] = "zscore"
    gate: dict[str, float] = field(default_factory=dict)
    temperature: float = 0.0
    seed: int = 0
    statistics: str | None = None
    convention: str | None = None


def select_rows(given: SelectSettings) -> "tuple[Dataset, Dataset, str | Mapping[str, float], dict[str, Any]]":
    """Returns all rows, the kept ones, what ranked them, and the first file's notes.

    Raises:
        ValueError: A setting, a file, a column or a score is not as it should be.
    """
    from longattn_hf.commands.tables import find_files, read_notes, read_rows
    from longattn_hf.pipeline.scored_with import find_convention, scored_with
    from longattn_hf.selection.select import add_long_distance_score, select_windows

    names = (*LIMITS, "refuse_overlap", "combine", "gate", "temperature", "seed")
    how: dict[str, Any] = {name: getattr(given, name) for name in names}
    # refused before anything is read
    Selection(alpha=given.alpha, score=given.score or LONG_DISTANCE_SCORE, **how)
    rows = read_rows(given.files)
    notes = {file: read_notes([file]) for file in find_files(given.files)}
    first = next(iter(notes.values()))
    # files without categories are of one
    by = None if given.by == CATEGORY and CATEGORY not in rows.column_names else given.by
    if {*RAW_SCORES} <= {*rows.column_names}:
        statistics = ScoreStatistics.load(given.statistics) if given.statistics else None
        known = {file: scored_with(file, own) for file, own in notes.items()}
        convention = find_convention(known, given.convention, statistics)
        rows = add_long_distance_score(rows, alpha=given.alpha, by=by, convention=convention, statistics=statistics)
    elif ignored := [name for name in ("statistics", "convention") if getattr(given, name) is not None]:
        raise ValueError(
            f"{' and '.join(ignored)} would read LongAttn's scores, and {', '.join(RAW_SCORES)} are not among the "
            f"columns {', '.join(rows.column_names)}."
        )
    score = given.score or _default_score(rows, first)
    # here, where all columns are known: a selection reads those that it needs
    for name in ([score] if isinstance(score, str) else [*score]) + [*given.gate, *([by] if by else [])]:
        if name not in rows.column_names:
            raise ValueError(f"There is no column {name!r}; the columns are {', '.join(rows.column_names)}.")
    kept = select_windows(rows, score=score, by=by, **how)
    return rows, kept, score, first


def _default_score(rows: "Dataset", notes: Mapping[str, Any]) -> str:
    named = [LONG_DISTANCE_SCORE, *notes.get("scores", [])]
    for name in named:
        if name in rows.column_names:
            return name
    raise ValueError(f"Nothing says which column ranks; name it with --score, of {', '.join(rows.column_names)}.")


def _count_tokens(rows: "Dataset") -> int | float | None:
    """Sums the rows' tokens; None where their number is not known of each."""
    if "num_tokens" not in rows.column_names:
        return None
    counts = rows.select_columns(["num_tokens"]).with_format("arrow")[:]["num_tokens"]
    known = (pa.types.is_integer(counts.type) or pa.types.is_floating(counts.type)) and not counts.null_count
    return (pc.sum(counts).as_py() or 0) if known else None


def main(arguments: list[str] | None = None) -> None:
    """Runs from the command line."""
    output = Output.read(arguments)
    with refusing("select"):
        given = read_command_line(
            SelectSettings, arguments, positional=("files",), short={"output": "o"}, parents=[OUTPUT]
        )
        from longattn_hf.commands.tables import check_output, stem_of, write_rows

        first = "".join(given.files[:1])
        with output.speaking():
            beside = f"{''.join(first.rpartition('/')[:2])}{stem_of(first)}-kept.parquet"
            path = check_output(given.output or beside, given.files)
            rows, kept, score, notes = select_rows(given)
            write_rows(kept, path, notes)
    tokens = _count_tokens(kept)
    counted = "" if tokens is None else f", {tokens:,} tokens"
    if counted and str(notes.get("num_tokens", "")).startswith("estimated"):
        counted += f" ({notes['num_tokens']})"
    output.show(
        f"{path}: {len(kept):,} of {len(rows):,} rows kept by {score}{counted}",
        {"output": path, "rows": len(rows), "kept": len(kept), "score": score, "tokens": tokens, **notes},
    )


if __name__ == "__main__":
    main()
