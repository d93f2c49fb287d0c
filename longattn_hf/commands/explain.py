"""`longattn explain FILE --model MODEL -o PAGE.html`: the token view of one window as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longattn_hf.commands.tables import is_table, read_rows
from longattn_hf.explore.token_view import explain
from longattn_hf.files import write_text
from longattn_hf.pipeline.refusal import Refusal
from longattn_hf.pipeline.settings import LocalPath, read_command_line, settings
from longattn_hf.scoring.longattn import LongAttnScorer


@settings
class ExplainSettings:
    """Writes a page that shows, token by token, how much of a text's attention goes far back, and to what.

        longattn explain chapter.txt --model HuggingFaceTB/SmolLM2-135M -o chapter.html
        longattn explain scored.parquet --row 17 --model HuggingFaceTB/SmolLM2-135M

    Attributes:
        file: A file of plain text, or Parquet or JSON lines of windows.
        model: The scoring model: a Hub id, a folder, a GGUF file, or package:NAME/FILE.
        output: The page to write.
        row: Of a file of rows, which one, from 0.
        text_column: The column that holds the texts.
        revision: The model's branch, tag or commit on the Hub.
        gguf_file: The GGUF file's name inside the model.
        min_distance: The least distance in tokens of a far pair; a quarter of the window if not given.
    """

    file: str
    model: str
    output: LocalPath | None = None
    row: int = 0
    text_column: str = "text"
    revision: str | None = None
    gguf_file: str | None = None
    min_distance: int | None = None


def main(arguments: list[str] | None = None) -> None:
    """Runs from the command line."""
    try:
        given = read_command_line(ExplainSettings, arguments, positional=("file",), short={"output": "o"})
        scorer = LongAttnScorer(
            given.model,
            revision=given.revision,
            gguf_file=given.gguf_file,
            min_distance=given.min_distance,
            text_column=given.text_column,
        )
        window, title = _read_window(given)
        output = given.output or Path(given.file).with_suffix(".html")
        write_text(output, explain(window, scorer, title=title).to_html())
    except (ValueError, OSError) as error:
        raise Refusal("explain", error) from error
    print(output)  # noqa: T201


def _read_window(given: ExplainSettings) -> tuple[Mapping[str, Any] | str, str]:
    if not is_table(given.file):
        try:
            return Path(given.file).read_text(encoding="utf-8"), Path(given.file).name
        except UnicodeDecodeError as error:
            raise ValueError(f"{given.file} is not text in UTF-8: {error}") from error
    rows = read_rows([given.file])
    if not 0 <= given.row < len(rows):
        raise ValueError(f"row={given.row} must lie in [0, {len(rows)}).")
    return rows[given.row], f"{Path(given.file).name}, row {given.row}"


if __name__ == "__main__":
    main()
