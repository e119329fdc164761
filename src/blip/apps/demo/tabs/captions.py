"""Captions of a photo, and where the model looked for each word of one of them."""

from __future__ import annotations

import gradio as gr

from blip.apps.demo import predictions, uploads, widgets
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits

BEAM, NUCLEUS = "beam search", "nucleus sampling"


def build(models: Models, limits: Limits) -> None:
    model = models.able("caption")

    @widgets.told
    def describe(path: str | None, way: str, count: int, top_p: float, seed: float) -> tuple[object, predictions.Shown]:
        assert model is not None, "the button is off without one"
        photo = uploads.photo(path, limits)
        found = predictions.captions(
            model, photo, "nucleus" if way == NUCLEUS else "beam", int(count), top_p, int(seed)
        )
        choices = [(f"{one.text}   ({one.score:.2f})", one.text) for one in found]
        return gr.Radio(choices=choices, value=found[0].text, visible=True), maps(path, found[0].text)

    @widgets.told
    def maps(path: str | None, caption: str) -> predictions.Shown:
        assert model is not None, "the button is off without one"
        photo = uploads.photo(path, limits)
        return predictions.maps(model.explain(photo.image, caption, subject="caption"))

    with gr.Row():
        with gr.Column():
            path = widgets.photo_input()
            widgets.examples(path)
            way = gr.Radio([BEAM, NUCLEUS], value=BEAM, label="How words are chosen")
            count = gr.Slider(1, 8, value=3, step=1, label="Captions")
            with gr.Row(visible=False) as sampling:
                top_p = gr.Slider(0.1, 1.0, value=0.9, step=0.05, label="Top p")
                seed = gr.Number(value=0, precision=0, label="Seed")
            button = gr.Button("Describe", variant="primary", interactive=model is not None)
            widgets.model_line(models.by("caption"))
        with gr.Column():
            captions = gr.Radio([], label="Captions, with the mean log-probability of their words", visible=False)
            looked = widgets.maps_output("Where the model looked for each word")
    way.change(
        lambda chosen: gr.Row(visible=chosen == NUCLEUS),
        way,
        sampling,
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )
    button.click(describe, [path, way, count, top_p, seed], [captions, looked], api_visibility="private")
    captions.input(maps, [path, captions], looked, api_visibility="private")
