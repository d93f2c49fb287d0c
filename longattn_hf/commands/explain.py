"""`longattn explain FILE --model MODEL -o PAGE.html`: why a window has its score, as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from longattn_hf.baselines.by_name import SCORERS, ranking_column
from longattn_hf.columns import CATEGORY, KEPT, LONG_DISTANCE_SCORE
from longattn_hf.files import is_address, write_text
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import LocalPath, read_command_line, settings
from longattn_hf.selection.standardisation import RAW_SCORES, get_numbers, long_distance_scores

if TYPE_CHECKING:
    from datasets import Dataset

_SCORE_COLUMNS = [ranking_column(name) for name in SCORERS]


@settings
class ExplainSettings:
    """Writes a page that says why a window has its score, and shows where each token's attention goes.

    Of a file of scored rows it also says where the row stands among those of its category.

        longattn explain chapter.txt --model HuggingFaceTB/SmolLM2-135M -o page.html
        longattn explain scored.parquet --row 17 --model HuggingFaceTB/SmolLM2-135M

    Attributes:
        file: A file of plain text, or Parquet or JSON lines of windows.
        model: The scoring model: a Hub id, a folder, a GGUF file, or package:NAME/FILE.
        output: The page to write; the file's name with -explained.html at its end if not given.
        row: Of a file of rows, which one, from 0.
        text_column: The column that holds the texts.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside the model.
        alpha: The weight of the uniformity in the long-distance score of scored rows.
        min_distance: The least distance in tokens of a far pair; if not given, that which the file was scored with, or
            a quarter of the window.
        convention: paper, reference_code or reference_code_causal; if not given, that which the file was scored in.
    """

    file: str
    model: str
    output: LocalPath | None = None
    row: int = 0
    text_column: str = "text"
    revision: str | None = None
    gguf_file: str | None = None
    alpha: float = 0.5
    min_distance: int | None = None
    convention: str | None = None


def main(arguments: list[str] | None = None) -> None:
    """Runs from the command line."""
    with refusing("explain"):
        given = read_command_line(ExplainSettings, arguments, positional=("file",), short={"output": "o"})
        output = _find_output(given)
        from longattn_hf.commands.tables import is_table, read_notes
        from longattn_hf.explore.token_view import explain
        from longattn_hf.pipeline.scored_with import scored_with, scorer_arguments
        from longattn_hf.scoring.longattn import LongAttnScorer

        known = scored_with(given.file, read_notes([given.file])) if is_table(given.file) else {}
        own = {name: value for name in ("convention", "min_distance") if (value := getattr(given, name)) is not None}
        scorer = LongAttnScorer(
            given.model,
            revision=given.revision,
            gguf_file=given.gguf_file,
            text_column=given.text_column,
            **scorer_arguments(known | own),
        )
        window, title, why = _read_window(given, known)
        write_text(output, explain(window, scorer, title=title).to_html(why=why))
    print(output)  # noqa: T201


def _find_output(given: ExplainSettings) -> Path:
    """Returns where the page is to be written, before the work that leads to it.

    Raises:
        ValueError: The file that is explained is there, or another one that is no page of this program's.
    """
    from longattn_hf.commands.tables import refuse_input, stem_of
    from longattn_hf.explore.token_view import is_page

    # beside the file, or here where it is in a store
    folder = Path() if is_address(given.file) else Path(given.file).parent
    output = given.output or folder / f"{stem_of(given.file)}-explained.html"
    refuse_input(str(output), [given.file])
    if output.is_file() and not is_page(output.read_text(encoding="utf-8", errors="replace")):
        raise ValueError(f"{output} is there, and no page of this program's; name another with -o, or remove it.")
    return output


def _read_window(given: ExplainSettings, known: Mapping[str, Any]) -> tuple[Mapping[str, Any] | str, str, list[str]]:
    """Returns the window, what to call it, and what its scores say of it."""
    from longattn_hf.commands.tables import is_table, read_rows

    if not is_table(given.file):
        try:
            return Path(given.file).read_text(encoding="utf-8"), Path(given.file).name, []
        except UnicodeDecodeError as error:
            raise ValueError(f"{given.file} is not text in UTF-8: {error}") from error
    rows = read_rows([given.file])
    if not 0 <= given.row < len(rows):
        raise ValueError(f"row={given.row} must lie in [0, {len(rows)}).")
    return rows[given.row], f"{Path(given.file).name}, row {given.row}", _say_standing(rows, given, known)


def _say_standing(rows: "Dataset", given: ExplainSettings, known: Mapping[str, Any]) -> list[str]:
    from longattn_hf.explore.why import stand
    from longattn_hf.pipeline.scored_with import find_convention

    present = [name for name in (CATEGORY, KEPT, *RAW_SCORES, *_SCORE_COLUMNS) if name in rows.column_names]
    table: pa.Table = rows.select_columns(present).with_format("arrow")[:]
    if CATEGORY not in present:
        table = table.append_column(CATEGORY, pa.array(["all"] * len(table)))
    scores, convention = {}, "paper"
    if {*RAW_SCORES} <= {*present}:
        convention = find_convention({given.file: known}, given.convention)
        scores[LONG_DISTANCE_SCORE] = long_distance_scores(table, alpha=given.alpha, convention=convention)
    scores |= {name: get_numbers(table, name) for name in _SCORE_COLUMNS if name in present and name not in scores}
    if not scores:
        return []
    kept = table[KEPT].to_numpy().astype(bool) if KEPT in present else None
    standing = stand(table, given.row, scores, kept=kept, alpha=given.alpha, convention=convention)
    return standing.sentences() if standing else []


if __name__ == "__main__":
    main()
