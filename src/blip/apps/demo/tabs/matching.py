"""Every text against every photo, as a table."""

from __future__ import annotations

import gradio as gr

from blip.apps.demo import predictions, uploads, widgets
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits

TEXTS = "a cat\na cup of coffee\na rocket is launched\na man with a camera"


def build(models: Models, limits: Limits) -> None:
    model = models.able("match")

    @widgets.told
    def match(paths: list[tuple[str, str | None]] | None, lines: str) -> str:
        assert model is not None, "the button is off without one"
        return predictions.matches(model, uploads.photos(paths, limits), uploads.texts(lines))

    paths = widgets.photos_input()
    lines = gr.Textbox(TEXTS, label="Texts, one a line", lines=4, max_lines=12)
    button = gr.Button("Match", variant="primary", interactive=model is not None)
    widgets.model_line(models.by("match"))
    table = gr.HTML(label="Matches")
    button.click(match, [paths, lines], table, api_visibility="private")
