"""The page's modules in Node, and the page of the bundled model served to Chromium."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blip.apps.export import web

NODE = shutil.which("node")
EXAMPLES = [
    path for path in sorted((Path(__file__).parents[3] / "examples").iterdir()) if path.suffix in (".png", ".jpg")
]
Run = Callable[[str, Any], Any]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(script, value): run a module that can import the page's modules; return what it passes to `answer`."""
    if NODE is None:
        pytest.skip("Node.js is not installed")
    folder = tmp_path_factory.mktemp("modules")
    for path in web.PAGE.glob("*.js"):
        shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}')

    def run(script: str, value: Any) -> Any:
        (folder / "value.json").write_text(json.dumps(value))
        (folder / "run.js").write_text(
            'import { readFileSync } from "node:fs";\n'
            'const value = JSON.parse(readFileSync("value.json"));\n'
            "const answer = (result) => process.stdout.write(JSON.stringify(result));\n" + script
        )
        process = subprocess.run([str(NODE), "run.js"], cwd=folder, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)

    return run


@dataclass
class Site:
    """A folder on a web server, and the number of requests for each path."""

    root: Path
    requests: Counter[str] = field(default_factory=Counter)
    url: str = ""


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Site with the page of the bundled model in a subfolder, as `blip export --to web` writes it."""
    if not (os.environ.get(web.ORT_FOLDER) or (Path(sys.prefix) / "web" / "node_modules" / web.ORT).is_dir()):
        pytest.skip(f"{web.ORT} is not installed: npm install --prefix .venv/web {web.ORT}@{web.ORT_VERSION}")
    root = tmp_path_factory.mktemp("site")
    (root / "docs" / "page").mkdir(parents=True)
    web.write(web.TINY, root / "docs" / "page")
    return root


class serving:
    """A static file server on a free port."""

    def __init__(self, root: Path) -> None:
        self.site = Site(root)
        requests = self.site.requests

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                requests[self.path.partition("?")[0]] += 1

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
        self.site.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Site:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.site

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
