"""The built page in headless Chromium, with every connection but that to its own server cut."""

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
    """The page in a browser whose every request to anywhere else fails, and fails the test."""
    context, troubles = browser.new_context(), []

    def guard(route: Any) -> None:
        if not route.request.url.startswith((site.url, "blob:")):
            troubles.append(route.request.url)
            route.abort()
        elif block and block in route.request.url:
            route.fulfill(status=404)
        else:
            route.continue_()

    context.route("**/*", guard)
    page = context.new_page()
    page.on("filechooser", lambda chooser: None)  # asked for now: Chromium learns of it only after a while
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" and not block else None)
    page.goto(f"{site.url}/{PAGE}")
    yield page
    context.close()
    assert not troubles


@pytest.fixture(scope="module")
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """One page for most tests, its model loaded, then off line."""
    with opened(browser, site) as page:
        page.wait_for_selector("#loading", state="hidden")
        page.evaluate("() => import('./image.js')")  # else only the worker has it, and `pixels` could not call it
        page.context.set_offline(True)
        yield page


def scores(page: Page) -> list[list[float]]:
    """[itm, itc] of each row of the table."""
    page.wait_for_selector("#scores:not([hidden])")
    found = [float(value) for value in page.eval_on_selector_all("#scores data", "all => all.map(one => one.value)")]
    return [found[i : i + 2] for i in range(0, len(found), 2)]


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
    wanted = model.match(path, TEXTS)
    assert np.allclose(scores(page), np.stack([wanted.itm[0], wanted.itc[0]], axis=1), atol=1e-3)
    assert page.inner_text("#scores tbody th >> nth=1") == TEXTS[1]


HAND = """([text, name, kind]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
  const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
                                : new ClipboardEvent(kind, { clipboardData: data, bubbles: true });
  document.querySelector("h1").dispatchEvent(event);
}"""


@pytest.mark.parametrize(("kind", "number"), [("drop", 0), ("paste", 1)])
def test_photos_may_be_dropped_and_pasted(page: Page, model: blip.Model, kind: str, number: int) -> None:
    path = EXAMPLES[number]
    page.evaluate(HAND, [base64.b64encode(path.read_bytes()).decode(), path.name, kind])
    expect_caption(page, model.caption(path).text)


def test_an_example_is_one_click_away(browser: Browser, site: Site, model: blip.Model, page_folder: Path) -> None:
    with opened(browser, site) as page:  # not yet loaded: the photo waits for the model
        page.click("[data-example='chelsea.jpg']")
        expect_caption(page, model.caption(page_folder / PAGE / "examples" / "chelsea.jpg").text)
        assert "6,000 photos" in page.inner_text("#about-tiny")


def test_the_keyboard_opens_the_file_chooser(page: Page) -> None:
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
    (
        "scan.tif",
        lambda: b"II*\0" + bytes(90),
        "scan.tif: TIFF image, which this browser cannot read; give JPEG or PNG",
    ),
    ("wide.png", wide_png, "wide.png: 8000x7000 is 56.0 megapixels; at most 50 are read"),
    ("long.png", lambda: bytes(30_000_001), "long.png: 30.0 MB; at most 30 MB are read"),
]


@pytest.mark.parametrize(("name", "data", "told"), BAD, ids=[name for name, _, _ in BAD])
def test_a_bad_file_gets_one_clear_line(
    page: Page, tmp_path: Path, name: str, data: Callable[[], bytes], told: str
) -> None:
    (tmp_path / name).write_bytes(data())
    page.set_input_files("#file", tmp_path / name)
    expect_problem(page, told)
    assert not page.is_visible("#preview")
    assert page.inner_text("#caption").startswith("Choose a photo")


def test_the_page_goes_on_after_a_bad_file(page: Page, model: blip.Model) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"x"})
    expect_problem(page, "a.png: not an image")
    page.set_input_files("#file", EXAMPLES[1])
    expect_caption(page, model.caption(EXAMPLES[1]).text)
    assert not page.is_visible("#problem")


def test_texts_are_asked_for_and_counted(page: Page) -> None:
    page.set_input_files("#file", EXAMPLES[1])
    for texts, told in ((" \n ", "Type a text to score, one a line."), ("a\n" * 51, "51 texts; at most 50")):
        page.fill("#texts", texts)
        page.click("button[type=submit]")
        page.wait_for_function("told => document.querySelector('#texts-note').textContent.startsWith(told)", arg=told)
        assert not page.is_visible("#scores")
    page.fill("#texts", "a\n" * 50)
    page.keyboard.press("Control+Enter")
    assert len(scores(page)) == 50


def picture(mode: str) -> Image.Image:
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
    """What the page and what Python make of an image file, in levels from 0 to 255."""
    found = np.array(page.evaluate(PREPARE, base64.b64encode(data).decode())).reshape(3, 224, 224)
    wanted = prepare([read(data)], size=224, mean=(0, 0, 0), std=(1, 1, 1))[0] * 255
    return found, wanted.round()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_pixels_of_a_png_equal_pythons(page: Page, mode: str) -> None:
    buffer = io.BytesIO()
    picture(mode).save(buffer, "PNG")
    found, wanted = pixels(page, buffer.getvalue())
    assert np.array_equal(found, wanted)


def test_transparency_lies_over_white(page: Page) -> None:
    buffer = io.BytesIO()
    picture("RGBA").save(buffer, "PNG")
    found, wanted = pixels(page, buffer.getvalue())
    assert np.abs(found - wanted).max() <= 1  # blending rounds otherwise


@pytest.mark.parametrize("turn", range(1, 9))
def test_photos_stand_upright_by_exif(page: Page, turn: int) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    read(EXAMPLES[-1]).save(buffer, "JPEG", quality=95, exif=exif)
    found, wanted = pixels(page, buffer.getvalue())
    assert np.abs(found - wanted).max() <= 2  # decoders of JPEG round otherwise


def test_the_model_is_downloaded_once(browser: Browser, page_folder: Path) -> None:
    with serving(page_folder) as site:
        context = browser.new_context()
        page = context.new_page()
        for _ in range(2):
            page.goto(f"{site.url}/{PAGE}")
            page.wait_for_selector("#loading", state="hidden")
        context.close()
        assert site.requests[f"/{PAGE}model/model.safetensors"] == 1
        assert site.requests[f"/{PAGE}ort/ort-wasm-simd-threaded.wasm"] == 1


def test_neither_page_nor_worker_can_connect_elsewhere(browser: Browser, site: Site, page_folder: Path) -> None:
    with serving(page_folder) as elsewhere:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{site.url}/{PAGE}")
        page.wait_for_selector("#loading", state="hidden")
        code = "address => fetch(address, { mode: 'no-cors' }).then(() => 'sent', (error) => 'refused')"
        runners: list[Any] = [page, *page.workers]
        assert len(runners) == 2
        for runner in runners:
            assert runner.evaluate(code, f"{site.url}/{PAGE}site.json") == "sent"
            assert runner.evaluate(code, f"{elsewhere.url}/") == "refused"
        context.close()
        assert not elsewhere.requests


def test_a_model_that_is_not_there_is_told(browser: Browser, site: Site) -> None:
    with opened(browser, site, block="model.safetensors") as page:
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('could not be loaded')")
        assert "model.safetensors: the server answers 404" in page.inner_text("#status")
        page.set_input_files("#file", EXAMPLES[0])
        page.wait_for_selector("#preview:not([hidden])")
        assert page.inner_text("#caption") == "The model is not there."


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_screen(page: Page, size: tuple[int, int]) -> None:
    page.fill("#texts", "w" * 200)
    page.set_input_files("#file", EXAMPLES[0])
    page.set_viewport_size({"width": size[0], "height": size[1]})
    scores(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
