"""Components used by several tabs, and reporting of errors on the page."""

from __future__ import annotations

import functools
import html
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gradio as gr

from blip.apps.demo import calls
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import EXAMPLES
from blip_lite.errors import BlipError

P = ParamSpec("P")
R = TypeVar("R")

ERROR_SECONDS = 10.0  # how long an error stays on the page


def report_errors(call: Callable[P, R]) -> Callable[P, R]:
    """Decorate an event handler: its errors become one line on the page; unexpected ones are also printed."""

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with calls.running():
                return call(*args, **kwargs)
        except BlipError as error:
            raise _page_error(str(error)) from error
        except Exception as error:
            traceback.print_exc()
            raise _page_error("unexpected error; details are in the terminal that runs this page") from error

    return wrapped


def _page_error(message: str) -> gr.Error:
    """gradio interprets the text as HTML, and it may contain what users typed."""
    return gr.Error(html.escape(" ".join(message.split())), duration=ERROR_SECONDS, print_exception=False)


def photo_input(label: str = "Photo", example: int | None = 0) -> gr.Image:
    """Input for one photo, optionally filled with an example. Its value is the path of the unopened file."""
    image = gr.Image(
        value=None if example is None else EXAMPLES[example],
        label=label,
        type="filepath",
        height=320,
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
    )
    # gradio's own `preprocess` would open the file, without our limits
    setattr(image, "preprocess", lambda payload: payload.path if payload else None)  # noqa: B010
    return image


def photo_input_with_examples() -> gr.Image:
    """Input for one photo, with the example photos to click below."""
    image = photo_input()
    gr.Examples([[path] for path in EXAMPLES], inputs=[image], label="Example photos", cache_examples=False)
    return image


def photos_input() -> gr.Gallery:
    """Input for several photos that starts with the examples, and a button that fills them in again."""
    gallery = gr.Gallery(
        value=list(EXAMPLES),
        label="Photos",
        type="filepath",
        height="auto",
        object_fit="contain",
        interactive=True,
        file_types=["image"],
        sources=["upload", "clipboard"],
        buttons=[],
        elem_classes="pictures",
    )
    button = gr.Button("Use the example photos", size="sm")
    button.click(lambda: list(EXAMPLES), outputs=gallery, show_progress="hidden", queue=False, api_visibility="private")
    return gallery


def requirement(models: Models, capability: str) -> None:
    """At the top of a tab that no loaded model can serve: how to start the page with one that can."""
    if models.first_capable(capability) is None:
        gr.Markdown(models.credit(capability), elem_classes="requirement")


def run_button(label: str, models: Models, capability: str, note: str = "") -> gr.Button:
    """Button that starts a computation, disabled without a capable model; below it the model, and a note."""
    button = gr.Button(label, variant="primary", interactive=models.first_capable(capability) is not None)
    if models.first_capable(capability) is not None:
        gr.Markdown(f"{models.credit(capability)} {note}", elem_classes="credit")
    return button


def pictures_output(label: str, *, large: bool = True) -> gr.Gallery:
    """Output of pictures with texts below them, in as many rows as needed."""
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=4,
        height="auto",
        object_fit="contain",
        interactive=False,
        buttons=["fullscreen"],
        elem_classes="pictures large" if large else "pictures",
    )


def heat_maps_output(label: str) -> gr.Gallery:
    """Output of heat-maps with their words, below a heading."""
    gr.Markdown(f"**{label}**")
    return pictures_output(label, large=False)
