"""How alike several photos are."""

from __future__ import annotations

import gradio as gr

from blip.apps.demo import predictions, uploads, widgets
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits


def build(models: Models, limits: Limits) -> None:
    model = models.able("match")

    @widgets.told
    def compare(paths: list[tuple[str, str | None]] | None) -> str:
        assert model is not None, "the button is off without one"
        return predictions.similarities(model, uploads.photos(paths, limits))

    gr.Markdown("Each photo becomes a vector; the table shows the cosine of every two: 1 for the same photo.")
    paths = widgets.photos_input()
    button = gr.Button("Compare", variant="primary", interactive=model is not None)
    widgets.model_line(models.by("match"))
    table = gr.HTML(label="Similarity")
    button.click(compare, paths, table, api_visibility="private")
