"""Documents in, scores, and those that are kept: what the page calls."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
from datasets import Dataset

from longattn_hf import publish, select_windows
from longattn_hf.baselines.by_name import make_scorer, ranking_column
from longattn_hf.commands.tables import is_table, read_rows

#: The scores that need no model, and rank by what is larger.
SCORES = {
    "far_gain": "what far words add to the near ones, in ordered text of known kinds",
    "word_gain": "the same, in whatever order and of whatever kind the text is",
    "compression_gain": "what far text saves a compressor that has the near text, in whatever order",
    "echo": "how far words are foretold by earlier ones, near and far",
}
MOST_DOCUMENTS, MOST_BYTES = 1000, 100_000_000
_SHOWN_CHARACTERS, _KIND = 4000, "kind"


@dataclass(frozen=True)
class Scored:
    """Scored documents.

    Attributes:
        rows: With the columns `id`, `text`, `category` where the files have one, the score and `kind`.
        score: The column to rank by.
    """

    rows: Dataset
    score: str


@dataclass(frozen=True)
class Kept:
    """A selection of scored documents.

    Attributes:
        summary: How many are kept, and why others have no score, in a sentence each.
        table: A line a document, best first; numbers rounded.
        best: The best one's text, from its start.
        worst: The worst one's of those with a score.
        file: A Parquet file of those that are kept; None where there are none.
        publication: What `publish` would put on the Hub.
    """

    summary: str
    table: pd.DataFrame
    best: str
    worst: str
    file: str | None
    publication: str


def python_library() -> list[str]:
    """Fifty files of Python's own library, to try the page with."""
    files = Path(os.__file__).parent.glob("*.py")
    return [str(file) for file in sorted(files, key=lambda file: (-file.stat().st_size, file.name))[20:70]]


def read_documents(files: Sequence[str], text_column: str = "text") -> Dataset:
    """Reads text files, a document each, or tables of one format, a document a row.

    Returns:
        The columns `id` and `text`, and `category` where the files have one.

    Raises:
        ValueError: There is nothing to read, too much, or something that is no text.
    """
    if not files:
        raise ValueError("Choose files first: text, JSON lines or Parquet.")
    if (size := sum(Path(file).stat().st_size for file in files)) > MOST_BYTES:
        raise ValueError(
            f"The files have {size:,} bytes, {MOST_BYTES:,} are the most that this page takes: `longattn score` on "
            "your own machine takes any number."
        )
    tables = [file for file in files if is_table(file)]
    if tables and len(tables) < len(files):
        raise ValueError("Some files are tables and others are text: give either.")
    if tables:
        rows = read_rows(tables)
        if text_column not in rows.column_names:
            raise ValueError(f"There is no column {text_column!r}; the columns are {', '.join(rows.column_names)}.")
        names = rows["id"][:] if "id" in rows.column_names else range(len(rows))
        columns = {"id": [str(name) for name in names], "text": rows[text_column][:]}
        if "category" in rows.column_names:
            columns["category"] = rows["category"][:]
    else:
        columns = {"id": [Path(file).name for file in files], "text": [_read_text(Path(file)) for file in files]}
    if not 0 < len(columns["id"]) <= MOST_DOCUMENTS:
        raise ValueError(f"There are {len(columns['id']):,} documents; from 1 to {MOST_DOCUMENTS:,} are read here.")
    return Dataset.from_dict(columns)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is no UTF-8 text: {error.reason} at byte {error.start:,}.") from error


def score_documents(documents: Dataset, score: str = "far_gain") -> Scored:
    """Scores documents, and says of each whether it is of a known kind; those too short get no score and a reason."""
    for name in (score, _KIND):
        documents = documents.map(make_scorer(name, {"on_error": "skip"}), batched=True, batch_size=16)
    return Scored(documents, ranking_column(score))


def select_documents(scored: Scored, fraction: float = 0.5, known_kinds: bool = True) -> Kept:
    """Keeps the best share of the documents, of each category where there are some.

    Args:
        scored: The documents.
        fraction: The share to keep.
        known_kinds: Leave out what looks like none of the kinds that the scores know: logs, tables, templates.

    Raises:
        ValueError: The share is not above 0 and at most 1.
    """
    rows, score = scored.rows, scored.score
    by = "category" if "category" in rows.column_names else None
    numbered = rows.add_column("place", list(range(len(rows))))
    kept = select_windows(numbered, score=score, fraction=fraction, by=by, gate={_KIND: 0.0} if known_kinds else None)
    table = numbered.remove_columns("text").to_pandas()
    table["kept"] = table["place"].isin(kept["place"][:])
    table = table.sort_values(score, ascending=False, na_position="last", kind="stable")
    order = table["place"][table[score].notna()].tolist()
    kept = kept.remove_columns("place")
    reasons = table["skip_reason"].dropna().value_counts() if "skip_reason" in table else {}
    refused = int((table[_KIND] < 0).sum()) if known_kinds else 0
    lines = [f"{len(kept):,} of {len(rows):,} documents are kept."]
    lines += [f"Of no known kind: {refused:,}."] if refused else []
    lines += [f"Without a score: {count:,}, {reason}." for reason, count in reasons.items()]
    file = None
    if len(kept):
        file = str(Path(mkdtemp()) / "kept.parquet")
        kept.to_parquet(file)
    shown = ["id", *([by] if by else []), score, _KIND, "kept", *(["skip_reason"] if len(reasons) else [])]
    return Kept(
        summary=" ".join(lines),
        table=table[shown].round(3).reset_index(drop=True),
        best=_show(rows, order[:1]),
        worst=_show(rows, order[-1:]),
        file=file,
        publication=str(publish(kept, "me/my-long-documents", dry_run=True)) if len(kept) else "",
    )


def _show(rows: Dataset, places: Sequence[int]) -> str:
    """The front of one document's text; nothing of none."""
    return "".join(f"{rows[place]['id']}\n\n{rows[place]['text'][:_SHOWN_CHARACTERS]}" for place in places)
