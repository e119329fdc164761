"""Whether a statement is true of two photos."""

from __future__ import annotations

import gradio as gr

from blip.apps.demo import uploads, widgets
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits


def build(models: Models, limits: Limits) -> None:
    model = models.able("compare")

    @widgets.told
    def judge(left: str | None, right: str | None, statement: str) -> dict[str, float]:
        assert model is not None, "the button is off without one"
        pictures = [uploads.photo(path, limits).image for path in (left, right)]
        verdict = model.compare(pictures[0], pictures[1], uploads.texts(statement, "statement")[0])
        return {"true": verdict.score, "false": 1 - verdict.score}

    with gr.Row():
        left, right = widgets.photo_input("Left photo", 0), widgets.photo_input("Right photo", 1)
    statement = gr.Textbox("The left photo shows a cat and the right one a cup.", label="Statement", max_lines=3)
    button = gr.Button("True or false?", variant="primary", interactive=model is not None)
    widgets.model_line(models.by("compare"))
    verdict = gr.Label(label="Verdict")
    gr.on(
        [button.click, statement.submit] if model else button.click,
        judge,
        [left, right, statement],
        verdict,
        api_visibility="private",
    )
