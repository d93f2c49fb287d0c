"""The Space's page: up to three texts, and their scores in a table."""

import os

# small and open; the paper's own model is large and gated
os.environ.setdefault("LONGATTN_MODEL", "HuggingFaceTB/SmolLM2-135M")

import evaluate
import gradio as gr

measurement = evaluate.load("./longattn.py", module_type="measurement")


def score(*texts: str) -> list[list[float]]:
    """Returns a row of scores for each text that is given."""
    given = [text for text in texts if text.strip()]
    if not given:
        raise gr.Error("Paste at least one text.")
    results = measurement.compute(data=given)
    return [[number + 1, *(results[name][number] for name in COLUMNS)] for number in range(len(given))]


COLUMNS = ["dependency_strength", "distribution_uniformity", "long_distance_score"]

demo = gr.Interface(
    fn=score,
    inputs=[gr.Textbox(label=f"Text {number}", lines=8, max_lines=16) for number in (1, 2, 3)],
    outputs=gr.Dataframe(headers=["text", *COLUMNS], label="Scores"),
    title="LongAttn",
    description=measurement.description,
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
