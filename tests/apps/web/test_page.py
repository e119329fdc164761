"""The exported page in headless Chromium, connected to its own server only."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import blip
from blip_lite.image import prepare, read
from experiments.quotes.files import rounded_photos
from tests.apps.conftest import new_page
from tests.apps.web.conftest import EXAMPLES, Site, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
PAGE = "docs/page/"
TEXTS = ["a cat looks at the camera", "A cup of Coffee, on a table!", "a man takes a photo", "zwei Hunde – 猫"]
SIZES = [(1280, 900), (390, 844)]


@pytest.fixture(scope="module")
def model() -> blip.Model:
    return blip.load("tiny")


@pytest.fixture(scope="module")
def site(page_folder: Path) -> Iterator[Site]:
    with serving(page_folder) as served:
        yield served


@contextmanager
def opened(browser: Browser, site: Site, block: str = "") -> Iterator[Page]:
    """Open the page; requests to other servers fail, and fail the test."""
    page, problems = new_page(browser), []

    def guard(route: Any) -> None:
        if not route.request.url.startswith((site.url, "blob:")):
            problems.append(route.request.url)
            route.abort()
        elif block and block in route.request.url:
            route.fulfill(status=404)
        else:
            route.continue_()

    page.context.route("**/*", guard)
    page.on("filechooser", lambda chooser: None)  # registered now, as Chromium applies it only after a while
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" and not block else None)
    page.goto(f"{site.url}/{PAGE}")
    yield page
    page.context.close()
    assert not problems


@pytest.fixture(scope="module")
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """One page for most tests: its model is loaded, then the network is switched off."""
    with opened(browser, site) as page:
        page.wait_for_selector("#loading", state="hidden")
        page.evaluate("() => import('./image.js')")  # so far only the worker has loaded it; `pixels` needs it
        page.context.set_offline(True)
        yield page


def scores(page: Page) -> list[list[float]]:
    """Return [itm, itc] of each row of the table."""
    page.wait_for_selector("#scores:not([hidden])")
    cells = page.eval_on_selector_all("#scores data", "cells => cells.map(cell => cell.value)")
    return [[float(cells[i]), float(cells[i + 1])] for i in range(0, len(cells), 2)]


def expect_caption(page: Page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#caption').textContent === text", arg=text)


def expect_problem(page: Page, text: str) -> None:
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem") == text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_captions_and_scores_equal_pythons(page: Page, model: blip.Model, path: Path) -> None:
    page.fill("#texts", "\n".join(["", *TEXTS, "  "]))
    page.set_input_files("#file", path)
    expect_caption(page, model.caption(path).text)
    expected = model.match(path, TEXTS)
    assert np.allclose(scores(page), np.stack([expected.itm[0], expected.itc[0]], axis=1), atol=1e-3)
    assert page.inner_text("#scores tbody th >> nth=1") == TEXTS[1]


SEND_FILE = """([text, name, kind]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
  const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
                                : new ClipboardEvent(kind, { clipboardData: data, bubbles: true });
  document.querySelector("h1").dispatchEvent(event);
}"""


@pytest.mark.parametrize(("kind", "number"), [("drop", 0), ("paste", 1)])
def test_photos_can_be_dropped_and_pasted(page: Page, model: blip.Model, kind: str, number: int) -> None:
    path = EXAMPLES[number]
    page.evaluate(SEND_FILE, [base64.b64encode(path.read_bytes()).decode(), path.name, kind])
    expect_caption(page, model.caption(path).text)


def test_example_photo_clicked_while_the_model_loads(
    browser: Browser, site: Site, model: blip.Model, page_folder: Path
) -> None:
    with opened(browser, site) as page:
        page.click("[data-example='chelsea.jpg']")
        expect_caption(page, model.caption(page_folder / PAGE / "examples" / "chelsea.jpg").text)
        assert rounded_photos("tiny") in page.inner_text("#about-tiny")


def test_keyboard_opens_the_file_chooser(page: Page) -> None:
    page.focus("#file")
    with page.expect_file_chooser():
        page.keyboard.press("Enter")


def wide_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (8000, 7000)).save(buffer, "PNG")
    return buffer.getvalue()


def damaged_png() -> bytes:
    data = bytearray(EXAMPLES[2].read_bytes())
    data[16:24] = bytes(8)  # no width, no height
    return bytes(data)


BAD: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty.png", bytes, "empty.png: empty file (0 bytes)"),
    ("notes.jpg", lambda: b"some words", "notes.jpg: not an image"),
    ("page.png", lambda: b"<!doctype html><p>", "page.png: not an image but an HTML page"),
    ("half.jpg", lambda: EXAMPLES[-1].read_bytes()[:60000], "half.jpg: truncated image (ends after 60,000 bytes)"),
    ("damaged.png", damaged_png, "damaged.png: damaged PNG image"),
    ("scan.tif", lambda: b"II*\0" + bytes(90), "scan.tif: this browser cannot read TIFF images; use JPEG or PNG"),
    ("wide.png", wide_png, "wide.png: 8000x7000 is 56.0 megapixels; the limit is 50"),
    ("long.png", lambda: bytes(30_000_001), "long.png: 30.0 MB; the limit is 30 MB"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD, ids=[name for name, _, _ in BAD])
def test_unusable_file_is_reported_in_one_line(
    page: Page, tmp_path: Path, name: str, data: Callable[[], bytes], message: str
) -> None:
    (tmp_path / name).write_bytes(data())
    page.set_input_files("#file", tmp_path / name)
    expect_problem(page, message)
    assert not page.is_visible("#preview")
    assert page.inner_text("#caption").startswith("Choose a photo")


def test_page_works_after_an_unusable_file(page: Page, model: blip.Model) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"x"})
    expect_problem(page, "a.png: not an image")
    page.set_input_files("#file", EXAMPLES[1])
    expect_caption(page, model.caption(EXAMPLES[1]).text)
    assert not page.is_visible("#problem")


NOTE_STARTS_WITH = "text => document.querySelector('#texts-note').textContent.startsWith(text)"


def test_number_of_texts_is_checked(page: Page) -> None:
    page.set_input_files("#file", EXAMPLES[1])
    for texts, message in ((" \n ", "Type texts to score, one per line."), ("a\n" * 51, "51 texts; the limit is 50")):
        page.fill("#texts", texts)
        page.click("button[type=submit]")
        page.wait_for_function(NOTE_STARTS_WITH, arg=message)
        assert not page.is_visible("#scores")
    page.fill("#texts", "a\n" * 50)
    page.keyboard.press("Control+Enter")
    assert len(scores(page)) == 50


def noise(mode: str) -> Image.Image:
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (300, 451, 4), dtype=np.uint8), "RGBA")
    return image if mode == "RGBA" else image.convert(mode)


PREPARE = """async (text) => {
  const { prepare } = await import("./image.js");
  const blob = new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]);
  const values = await prepare(blob, { size: 224, mean: [0, 0, 0], std: [1, 1, 1] });
  return Array.from(values, (value) => Math.round(value * 255));
}"""


def pixels(page: Page, data: bytes) -> tuple[Any, Any]:
    """Return the pixels of an image file as prepared by the page and by Python, in levels from 0 to 255."""
    result = np.array(page.evaluate(PREPARE, base64.b64encode(data).decode())).reshape(3, 224, 224)
    expected = prepare([read(data)], size=224, mean=(0, 0, 0), std=(1, 1, 1))[0] * 255
    return result, expected.round()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_pixels_of_a_png_equal_pythons(page: Page, mode: str) -> None:
    buffer = io.BytesIO()
    noise(mode).save(buffer, "PNG")
    result, expected = pixels(page, buffer.getvalue())
    assert np.array_equal(result, expected)


def test_transparency_is_blended_with_white(page: Page) -> None:
    buffer = io.BytesIO()
    noise("RGBA").save(buffer, "PNG")
    result, expected = pixels(page, buffer.getvalue())
    assert np.abs(result - expected).max() <= 1  # blending rounds differently


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(page: Page, orientation: int) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    read(EXAMPLES[-1]).save(buffer, "JPEG", quality=95, exif=exif)
    result, expected = pixels(page, buffer.getvalue())
    assert np.abs(result - expected).max() <= 2  # JPEG decoders round differently


def test_model_is_downloaded_once(browser: Browser, page_folder: Path) -> None:
    with serving(page_folder) as site:
        page = new_page(browser)
        for _ in range(2):
            page.goto(f"{site.url}/{PAGE}")
            page.wait_for_selector("#loading", state="hidden")
        page.context.close()
        assert site.requests[f"/{PAGE}model/model.safetensors"] == 1
        assert site.requests[f"/{PAGE}ort/ort-wasm-simd-threaded.wasm"] == 1


def test_page_and_worker_cannot_connect_elsewhere(browser: Browser, site: Site, page_folder: Path) -> None:
    with serving(page_folder) as elsewhere:
        page = new_page(browser)
        page.goto(f"{site.url}/{PAGE}")
        page.wait_for_selector("#loading", state="hidden")
        code = "address => fetch(address, { mode: 'no-cors' }).then(() => 'sent', (error) => 'refused')"
        runners: list[Any] = [page, *page.workers]
        assert len(runners) == 2
        for runner in runners:
            assert runner.evaluate(code, f"{site.url}/{PAGE}site.json") == "sent"
            assert runner.evaluate(code, f"{elsewhere.url}/") == "refused"
        page.context.close()
        assert not elsewhere.requests


def test_missing_model_is_reported(browser: Browser, site: Site) -> None:
    with opened(browser, site, block="model.safetensors") as page:
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('could not be loaded')")
        assert "model.safetensors: the server answered 404" in page.inner_text("#status")
        page.set_input_files("#file", EXAMPLES[0])
        page.wait_for_selector("#preview:not([hidden])")
        assert page.inner_text("#caption") == "The model is not available."


@pytest.mark.parametrize("size", SIZES)
def test_page_fits_the_screen_width(page: Page, size: tuple[int, int]) -> None:
    page.fill("#texts", "w" * 200)
    page.set_input_files("#file", EXAMPLES[0])
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.wait_for_function("() => document.querySelector('#scores:not([hidden]) tbody th')?.textContent.length === 200")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
