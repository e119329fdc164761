"""Photos of a folder that fit some words or another photo."""

from __future__ import annotations

import gradio as gr

from blip.apps.demo import uploads, widgets
from blip.apps.demo.folder import Folders
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import Limits

OFF = (
    "Search is off, as this page can be reached from other machines. Start it with `--search-root DIR` to let "
    "visitors search the photos in that folder."
)


def build(models: Models, limits: Limits, folders: Folders | None) -> None:
    if folders is None:
        gr.Markdown(OFF, elem_classes="by")
        return
    model = models.able("match")

    @widgets.told
    def search(
        folder: str,
        words: str,
        path: str | None,
        top: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[tuple[object, str]]:
        assert model is not None, "the button is off without one"
        query: list[object] = [words.strip()] if words.strip() else []
        query += [uploads.photo(path, limits).image] if path else []

        def tick(done: int, total: int) -> bool:
            progress((done, total), desc="Reading the folder", unit="files")
            return True

        found = folders.search(model, folder, query, int(top), tick)
        if not found:
            gr.Info("No photos there.")
        return list(found)

    with gr.Row():
        with gr.Column():
            where = "" if folders.root is None else f", in {folders.root}"
            folder = gr.Textbox(label=f"Folder{where}", placeholder="/home/me/Pictures", max_lines=1)
            words = gr.Textbox(label="Words", placeholder="a dog on a beach", max_lines=2)
            top = gr.Slider(1, 48, value=12, step=1, label="Photos")
        path = widgets.photo_input("Or a photo like this", None)
    button = gr.Button("Search", variant="primary", interactive=model is not None)
    widgets.model_line(f"{models.by('match')} A folder is read at its first search; later ones read what has changed.")
    found = widgets.pictures_output("Found")
    gr.on(
        [button.click, folder.submit, words.submit],
        search,
        [folder, words, path, top],
        found,
        api_visibility="private",
    )
