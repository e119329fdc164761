"""Answers to a question about a photo."""

from __future__ import annotations

import gradio as gr

from blip.apps.demo import predictions, uploads, widgets
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits


def build(models: Models, limits: Limits) -> None:
    model = models.able("answer")

    @widgets.told
    def ask(path: str | None, question: str, choices: str, top: int) -> tuple[list[list[str]], predictions.Shown]:
        assert model is not None, "the button is off without one"
        photo = uploads.photo(path, limits)
        line = uploads.texts(question, "question")[0]
        closed = [one.strip() for one in choices.replace("\n", ",").split(",") if one.strip()]
        found = predictions.answers(model, photo, line, closed, int(top))
        return [[text, f"{score:.2f}"] for text, score in found], predictions.maps(model.explain(photo.image, line))

    with gr.Row():
        with gr.Column():
            path = widgets.photo_input()
            widgets.examples(path)
            question = gr.Textbox("what animal is this?", label="Question", max_lines=2)
            choices = gr.Textbox(label="Only these answers, separated by commas (may be empty)", max_lines=3)
            top = gr.Slider(1, 5, value=3, step=1, label="Answers")
            button = gr.Button("Ask", variant="primary", interactive=model is not None)
            widgets.model_line(models.by("answer"))
        with gr.Column():
            table = gr.Dataframe(
                headers=["answer", "score"],
                interactive=False,
                label="Answers, the best first",
                buttons=[],
                elem_classes="answers",
            )
            looked = widgets.maps_output("Where the model looked for its own answer")
    gr.on(
        [button.click, question.submit], ask, [path, question, choices, top], [table, looked], api_visibility="private"
    )
