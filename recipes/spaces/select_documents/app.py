"""The Space's page: your documents in, the best and the worst side by side, those that are kept to take along."""

import gradio as gr
from select_documents import SCORES, Scored, python_library, read_documents, score_documents, select_documents

INTRODUCTION = """# Which of your long documents?

Scored without a model, in seconds: by words that stand far and not near. **Read both ends before you trust a number**:
the scores see no meaning, and nobody has measured whether training on what they keep pays. A document needs 512 words.
"""


def score(files: list[str] | None, text_column: str, name: str) -> Scored:
    """Reads and scores what was chosen."""
    try:
        return score_documents(read_documents(files or [], text_column.strip() or "text"), name)
    except ValueError as error:
        raise gr.Error(str(error)) from error


def select(scored: Scored | None, fraction: float, known_kinds: bool) -> tuple:
    """Selects of what is scored, and shows it."""
    if scored is None:
        raise gr.Error("Score some documents first.")
    try:
        kept = select_documents(scored, fraction, known_kinds)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    file = gr.DownloadButton(value=kept.file, interactive=kept.file is not None)
    return kept.summary, kept.table, kept.best, kept.worst, file, kept.publication


def select_again(scored: Scored | None, fraction: float, known_kinds: bool) -> tuple:
    """Selects anew, unless nothing is scored yet."""
    return select(scored, fraction, known_kinds) if scored else (gr.skip(),) * 6


with gr.Blocks(title="Which of your long documents?", delete_cache=(3600, 3600)) as demo:
    gr.Markdown(INTRODUCTION)
    scored = gr.State(None)
    with gr.Row():
        with gr.Column():
            files = gr.File(label="Text files, JSON lines or Parquet", file_count="multiple", height=300)
            example = gr.Button("Take Python's own library")
        with gr.Column():
            name = gr.Dropdown([(f"{n}: {text}", n) for n, text in SCORES.items()], value="far_gain", label="Score")
            text_column = gr.Textbox("text", label="Column of the text", info="of JSON lines and Parquet")
            fraction = gr.Slider(
                0.01, 1, 0.5, step=0.01, label="Share to keep", info="of each category, if there is one"
            )
            known_kinds = gr.Checkbox(True, label="Leave out logs, tables and other text of no known kind")
            run = gr.Button("Score", variant="primary")
    summary = gr.Markdown()
    table = gr.Dataframe(label="Documents, best first", wrap=True, interactive=False)
    with gr.Row():
        best = gr.Textbox(label="The best", lines=12, max_lines=12, min_width=300)
        worst = gr.Textbox(label="The worst with a score", lines=12, max_lines=12, min_width=300)
    file = gr.DownloadButton("Those that are kept, as Parquet", interactive=False)
    publication = gr.Textbox(
        label="What would be published; nothing is sent", lines=6, max_lines=20, interactive=False
    )

    shown = [summary, table, best, worst, file, publication]
    example.click(python_library, outputs=files)
    run.click(score, [files, text_column, name], scored).success(select, [scored, fraction, known_kinds], shown)
    for changed in (fraction.release, known_kinds.change):
        changed(select_again, [scored, fraction, known_kinds], shown)

if __name__ == "__main__":
    demo.launch()
