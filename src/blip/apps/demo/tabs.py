"""Tabs of the page: their components and event handlers."""

from __future__ import annotations

import gradio as gr

from blip.apps.demo import predictions, uploads, widgets
from blip.apps.demo.folder import Folders
from blip.apps.demo.models import Models
from blip.apps.demo.predictions import LabelledImages
from blip.apps.demo.uploads import Limits

BEAM, NUCLEUS = "beam search", "nucleus sampling"
TEXTS = "a cat\na cup of coffee\na rocket is launched\na man with a camera"
SEARCH_OFF = (
    "Search is off because this page can be reached from other machines. Start it with `--search-root DIR` to let "
    "visitors search the photos in that folder."
)


def captions(models: Models, limits: Limits) -> None:
    """Captions of a photo, with heat-maps for each word of the selected one."""

    @widgets.report_errors
    def describe(path: str | None, method: str, count: int, top_p: float, seed: float) -> tuple[object, LabelledImages]:
        photo = uploads.photo(path, limits)
        captions = predictions.captions(
            models.require("caption"), photo, "nucleus" if method == NUCLEUS else "beam", int(count), top_p, int(seed)
        )
        choices = [(f"{caption.text}   ({caption.score:.2f})", caption.text) for caption in captions]
        return gr.Radio(choices=choices, value=captions[0].text, visible=True), explain(path, captions[0].text)

    @widgets.report_errors
    def explain(path: str | None, caption: str) -> LabelledImages:
        image = uploads.photo(path, limits).image
        return predictions.heat_maps(models.require("caption").explain(image, caption, subject="caption"))

    widgets.requirement(models, "caption")
    with gr.Row():
        with gr.Column():
            path = widgets.photo_input_with_examples()
            method = gr.Radio([BEAM, NUCLEUS], value=BEAM, label="Decoding method")
            count = gr.Slider(1, 8, value=3, step=1, label="Number of captions")
            with gr.Row(visible=False) as sampling:
                top_p = gr.Slider(0.1, 1.0, value=0.9, step=0.05, label="Top p")
                seed = gr.Number(value=0, precision=0, label="Seed")
            button = widgets.run_button("Describe", models, "caption")
        with gr.Column():
            choice = gr.Radio([], label="Captions (mean log-probability per token)", visible=False)
            heat_maps = widgets.heat_maps_output("Where the model looked for each word")
    method.change(
        lambda selected: gr.Row(visible=selected == NUCLEUS),
        method,
        sampling,
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )
    button.click(describe, [path, method, count, top_p, seed], [choice, heat_maps], api_visibility="private")
    choice.input(explain, [path, choice], heat_maps, api_visibility="private")


def questions(models: Models, limits: Limits) -> None:
    """Answers to a question about a photo, with heat-maps."""

    @widgets.report_errors
    def ask(path: str | None, text: str, allowed: str, top: int) -> tuple[list[list[str]], LabelledImages]:
        model = models.require("answer")
        photo = uploads.photo(path, limits)
        question = uploads.texts(text, "question")[0]
        choices = [choice.strip() for choice in allowed.replace("\n", ",").split(",") if choice.strip()]
        answers = predictions.answers(model, photo, question, choices, int(top))
        heat_maps = predictions.heat_maps(model.explain(photo.image, question))
        return [[answer, f"{score:.2f}"] for answer, score in answers], heat_maps

    widgets.requirement(models, "answer")
    with gr.Row():
        with gr.Column():
            path = widgets.photo_input_with_examples()
            question = gr.Textbox("what animal is this?", label="Question", max_lines=2)
            allowed = gr.Textbox(label="Allowed answers, separated by commas (optional)", max_lines=3)
            top = gr.Slider(1, 5, value=3, step=1, label="Number of answers")
            button = widgets.run_button("Ask", models, "answer")
        with gr.Column():
            table = gr.Dataframe(
                headers=["answer", "score"],
                interactive=False,
                label="Answers, best first",
                buttons=[],
                elem_classes="answers",
            )
            heat_maps = widgets.heat_maps_output("Where the model looked for its own answer")
    gr.on(
        [button.click, question.submit],
        ask,
        [path, question, allowed, top],
        [table, heat_maps],
        api_visibility="private",
    )


def matching(models: Models, limits: Limits) -> None:
    """Match scores of every text with every photo."""

    @widgets.report_errors
    def match(paths: list[tuple[str, str | None]] | None, lines: str) -> str:
        return predictions.match_table(models.require("match"), uploads.photos(paths, limits), uploads.texts(lines))

    widgets.requirement(models, "match")
    paths = widgets.photos_input()
    lines = gr.Textbox(TEXTS, label="Texts, one per line", lines=4, max_lines=12)
    button = widgets.run_button("Match", models, "match")
    button.click(match, [paths, lines], gr.HTML(label="Matches"), api_visibility="private")


def two_photos(models: Models, limits: Limits) -> None:
    """Whether a statement about two photos is true."""

    @widgets.report_errors
    def judge(left: str | None, right: str | None, text: str) -> dict[str, float]:
        images = [uploads.photo(path, limits).image for path in (left, right)]
        statement = uploads.texts(text, "statement")[0]
        result = models.require("compare").compare(images[0], images[1], statement)
        return {"true": result.score, "false": 1 - result.score}

    widgets.requirement(models, "compare")
    with gr.Row():
        left, right = widgets.photo_input("Left photo", 0), widgets.photo_input("Right photo", 1)
    statement = gr.Textbox("The left photo shows a cat and the right one a cup.", label="Statement", max_lines=3)
    button = widgets.run_button("True or false?", models, "compare")
    gr.on(
        [button.click, statement.submit] if models.first_capable("compare") else button.click,
        judge,
        [left, right, statement],
        gr.Label(label="Result"),
        api_visibility="private",
    )


def features(models: Models, limits: Limits) -> None:
    """Cosine similarities of several photos."""

    @widgets.report_errors
    def compare(paths: list[tuple[str, str | None]] | None) -> str:
        return predictions.similarity_table(models.require("match"), uploads.photos(paths, limits))

    widgets.requirement(models, "match")
    gr.Markdown("Each photo is converted to a vector. The table shows the cosine of every pair; 1 for equal photos.")
    paths = widgets.photos_input()
    button = widgets.run_button("Compare", models, "match")
    button.click(compare, paths, gr.HTML(label="Similarity"), api_visibility="private")


def search(models: Models, limits: Limits, folders: Folders | None) -> None:
    """Photos of a folder that match some words or another photo."""
    if folders is None:
        gr.Markdown(SEARCH_OFF, elem_classes="credit")
        return

    @widgets.report_errors
    def find(
        folder: str,
        words: str,
        path: str | None,
        top: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> LabelledImages:
        query: list[object] = [words.strip()] if words.strip() else []
        query += [uploads.photo(path, limits).image] if path else []

        def show_progress(done: int, total: int) -> bool:
            progress((done, total), desc="Reading the folder", unit="files")
            return True

        photos = folders.search(models.require("match"), folder, query, int(top), show_progress)
        if not photos:
            gr.Info("No photos found.")
        return photos

    with gr.Row():
        with gr.Column():
            root = "" if folders.root is None else f" inside {folders.root}"
            folder = gr.Textbox(label=f"Folder{root}", placeholder="/home/me/Pictures", max_lines=1)
            words = gr.Textbox(label="Words", placeholder="a dog on a beach", max_lines=2)
            top = gr.Slider(1, 48, value=12, step=1, label="Number of photos")
        path = widgets.photo_input("Or a similar photo", None)
    note = "The first search reads the whole folder; later ones read only new and changed photos."
    button = widgets.run_button("Search", models, "match", note)
    gr.on(
        [button.click, folder.submit, words.submit],
        find,
        [folder, words, path, top],
        widgets.pictures_output("Results"),
        api_visibility="private",
    )
