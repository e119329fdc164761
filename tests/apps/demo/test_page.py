"""The page in Chromium: every tab, at desktop and phone width, without requests to other machines."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from blip.apps.demo.uploads import EXAMPLES
from tests.apps.conftest import new_page

MISSING = [name for name in ("gradio", "usearch", "playwright") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

# Server process that logs every connection to another machine.
SERVER = """
import socket, sys
connect = socket.socket.connect
def logged(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("CALLED", address, file=sys.stderr, flush=True)
    return connect(self, address)
socket.socket.connect = logged
from blip.cli import main
limits = ["--max-upload-mb", "1", "--max-megapixels", "1"]
sys.exit(main(["demo", "-m", "random-tiny-nlvr", "--port", "0", *limits]))
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the page; at the end the server must exit with 0, leave no files and have called no other machine."""
    scratch, log = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("log") / "stderr"
    environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    environment.pop("BLIP_MODEL", None)
    with open(log, "w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        )
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline().strip()
            assert line.startswith("http://127.0.0.1:"), log.read_text()
            yield line
            process.send_signal(signal.SIGTERM)
            assert process.wait(180) == 0
    assert list(scratch.glob("blip-demo-*")) == []
    assert "CALLED" not in log.read_text() and "Traceback" not in log.read_text()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """The page at one of two widths; requests to other machines and errors in the console fail the test."""
    width, height = request.param
    page, outside, errors = new_page(browser, viewport={"width": width, "height": height}), [], []
    allowed = (address, address.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith(allowed) else None)
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(address)
    page.get_by_role("button", name="Describe").wait_for()
    yield page
    page.context.close()
    assert (outside, errors) == ([], [])


def tab(page: Any, name: str) -> None:
    """Open a tab; on a narrow page it may be in the overflow menu."""
    button = page.get_by_role("tab", name=name, exact=True)
    if not button.is_visible():
        page.locator(".overflow-menu > button").click()
        button = page.locator(".overflow-dropdown button", has_text=name)
    button.click()


def visible(page: Any, role: str, name: str) -> Any:
    return page.get_by_role(role, name=name, exact=True).locator("visible=true")


def test_every_tab_shows_results(page: Any, tmp_path: Path) -> None:
    visible(page, "button", "Describe").click()
    page.get_by_text("all words").wait_for()
    captions = page.get_by_role("radio", name="cat")
    captions.first.wait_for()
    assert 1 <= captions.count() <= 3

    tab(page, "Questions")
    visible(page, "button", "Ask").click()
    page.get_by_role("gridcell", name="cat").or_(page.locator("td", has_text="cat")).first.wait_for()

    tab(page, "Matching")
    visible(page, "button", "Use the example photos").click()
    page.locator("img[src*='rocket']").locator("visible=true").first.wait_for()
    visible(page, "button", "Match").click()
    cells = page.locator(".scores td").locator("visible=true")
    cells.first.wait_for()
    assert cells.count() == 4 * 5 and cells.first.inner_text().startswith(("7", "8", "9"))

    tab(page, "Two photos")
    visible(page, "button", "True or false?").click()
    page.get_by_text("%").locator("visible=true").nth(1).wait_for()  # one each for true and false

    tab(page, "Features")
    visible(page, "button", "Use the example photos").click()
    page.locator("img[src*='rocket']").locator("visible=true").first.wait_for()
    visible(page, "button", "Compare").click()
    cells.first.wait_for()
    assert cells.count() == 5 * 5

    for path in EXAMPLES:
        shutil.copy(path, tmp_path)
    tab(page, "Search")
    page.get_by_label("Folder").fill(str(tmp_path))
    page.get_by_label("Words").fill("a cup of coffee")
    visible(page, "button", "Search").click()
    page.get_by_text("coffee.jpg").wait_for()


def test_sampling_settings_and_heat_maps_of_another_caption(page: Any) -> None:
    assert not page.get_by_label("Seed").is_visible()
    page.get_by_role("radio", name="nucleus sampling").check()
    page.get_by_label("Seed").wait_for()
    visible(page, "button", "Describe").click()
    page.get_by_text("all words").wait_for()
    captions = page.get_by_role("radio").locator("visible=true")
    captions.nth(2 + 3 - 1).wait_for()
    assert captions.count() == 2 + 3
    before = page.locator(".pictures img").locator("visible=true").first.get_attribute("src")
    captions.last.check()
    page.wait_for_function(
        "before => { const i = document.querySelector('.pictures img'); return i && i.getAttribute('src') !== before }",
        arg=before,
    )


def test_invalid_photos_and_folders_are_reported_on_the_page(page: Any, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "text.jpg").write_text("no photo")
    Image.new("1", (1200, 1000)).save(tmp_path / "large.png")
    for name, message in (("text.jpg", "text.jpg: not an image"), ("large.png", "at most 1 allowed")):
        remove = page.locator("button[aria-label='Clear'], button[aria-label='Remove Image']")
        remove.locator("visible=true").first.click()
        page.locator("input[type=file]").first.set_input_files(tmp_path / name)
        page.locator(f"img[src*='{name}']").first.wait_for(state="attached")
        visible(page, "button", "Describe").click()
        page.locator(".toast-body", has_text=message).wait_for()
    tab(page, "Search")
    page.get_by_label("Folder").fill(str(tmp_path / "nowhere"))
    page.get_by_label("Words").fill("x")
    visible(page, "button", "Search").click()
    page.locator(".toast-body", has_text="no such folder").wait_for()
    page.get_by_label("Folder").fill("<img src=x>")
    visible(page, "button", "Search").click()
    page.locator(".toast-body", has_text="<img src=x>: no such folder").wait_for()


def test_other_host_names_are_rejected(address: str) -> None:
    """DNS rebinding: a web site whose name resolves to this machine must not reach the page."""
    with (
        pytest.raises(HTTPError, match="400"),
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}), timeout=60),
    ):
        pass


def test_cross_origin_requests_are_rejected(address: str) -> None:
    body = b'--X\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\nabc\r\n--X--\r\n'
    head = {"Content-Type": "multipart/form-data; boundary=X"}  # sent by browsers without a preflight request
    request = urllib.request.Request(f"{address}gradio_api/upload", body, head)
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 200
    for origin in ("http://evil.example", "https://127.0.0.1.evil.example", "null"):
        request.add_header("Origin", origin)
        with pytest.raises(HTTPError, match="403"), urllib.request.urlopen(request, timeout=60):
            pass
