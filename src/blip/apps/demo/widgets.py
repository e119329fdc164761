"""Pieces that several tabs have: a photo to drop, a gallery of photos, heat-maps, and errors in one line."""

from __future__ import annotations

import functools
import html
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gradio as gr

from blip.apps.demo.uploads import EXAMPLES
from blip_lite.errors import BlipError

P = ParamSpec("P")
R = TypeVar("R")

SECONDS = 10.0  # that an error stays on the page


def told(call: Callable[P, R]) -> Callable[P, R]:
    """The call, whose failures become one line on the page; what nobody expected is also printed to the terminal."""

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except BlipError as error:
            raise _shown(str(error)) from error
        except Exception as error:
            traceback.print_exc()
            raise _shown("something unexpected failed; the terminal that runs this page says more") from error

    return wrapped


def _shown(message: str) -> gr.Error:
    """gradio takes the text as HTML, and texts and names that people typed are in it."""
    return gr.Error(html.escape(" ".join(message.split())), duration=SECONDS, print_exception=False)


def photo_input(label: str = "Photo", example: int | None = 0) -> gr.Image:
    """A place to drop a photo, with an example in it. It gives the file's path; nothing has looked into it yet."""
    image = gr.Image(
        value=None if example is None else EXAMPLES[example],
        label=label,
        type="filepath",
        height=320,
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
    )
    # gradio's own would open the file, without our limits
    setattr(image, "preprocess", lambda payload: payload.path if payload else None)  # noqa: B010
    return image


def examples(image: gr.Image) -> None:
    """The example photos, to be clicked."""
    gr.Examples([[path] for path in EXAMPLES], inputs=[image], label="Example photos", cache_examples=False)


def photos_input() -> gr.Gallery:
    """A place to drop several photos, and a button that puts the examples there."""
    gallery = gr.Gallery(
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


def maps_output(label: str) -> gr.Gallery:
    """Heat-maps with their words."""
    gr.Markdown(f"**{label}**")
    return pictures_output(label, "pictures")


def pictures_output(label: str, look: str = "pictures large") -> gr.Gallery:
    """Pictures with texts under them, as many rows as they need."""
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=4,
        height="auto",
        object_fit="contain",
        interactive=False,
        buttons=["fullscreen"],
        elem_classes=look,
    )


def model_line(text: str) -> None:
    """Which model answers on this tab, or what is needed."""
    gr.Markdown(text, elem_classes="by")
