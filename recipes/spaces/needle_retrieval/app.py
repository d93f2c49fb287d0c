"""The Space's page: an answer, the values it should hold, and how many it does."""

import evaluate
import gradio as gr

metric = evaluate.load("./needle_retrieval.py")


def count(answer: str, values: str) -> dict:
    """Returns the metric of one answer."""
    references = [value.strip() for value in values.split(",") if value.strip()]
    if not references:
        raise gr.Error("Give at least one value.")
    return metric.compute(predictions=[answer], references=[references])


demo = gr.Interface(
    fn=count,
    inputs=[gr.Textbox(label="Answer"), gr.Textbox(label="Values asked for, with commas between them")],
    outputs=gr.JSON(label="Result"),
    title="Needle retrieval",
    description=metric.description,
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
