"""Clients that others' generators make from the description of the server. They are in an environment of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.apps.serve.conftest import TIMEOUT, Served, png

TOOLS = Path(sys.prefix, "clients")  # made by `make .venv/.clients`
SCRIPTS = Path(__file__).with_name("clients")

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not (TOOLS / "node" / "node_modules").is_dir(), reason="needs `make .venv/.clients`"),
]


def run(folder: Path, *command: object) -> str:
    path = os.pathsep.join([str(TOOLS / "bin"), os.environ.get("PATH", "")])  # the generator calls ruff
    options: dict[str, Any] = {"cwd": folder, "env": os.environ | {"PATH": path}, "timeout": TIMEOUT}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the description and a photo."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "openapi.json").write_text(server.client.get("/openapi.json").text)
    (folder / "photo.png").write_bytes(png())
    return folder


def test_a_generated_python_client_parses_every_reply(server: Served, folder: Path) -> None:
    generator = TOOLS / "bin" / "openapi-python-client"
    options = ("--path", "openapi.json", "--output-path", "blip_client", "--meta", "none", "--fail-on-warning")
    run(folder, generator, "generate", *options)
    shutil.copy(SCRIPTS / "use_client.py", folder)
    assert run(folder, TOOLS / "bin" / "python", "use_client.py", server.url, "photo.png").splitlines() == [
        "CaptionRecord CaptionRecord",
        "list CaptionRecord FailedImage",
        "list CaptionRecord CaptionRecord",
        "AnswerRecord AnswerRecord",
        "list AnswerRecord AnswerRecord",
        "MatchRecord MatchRecord",
        "list MatchRecord MatchRecord",
        "EmbedRecord EmbedRecord",
        "list EmbedRecord FailedImage",
        "EmbedRecord EmbedRecord",
        "ExplainRecord ExplainRecord",
        "ExplainRecord ExplainRecord",
        "list ModelInfo ModelInfo",
        "Index Index",
        "Status Status",
        "Status Status",
        "Document Document",
        "Error Error",
    ]


def test_a_generated_typescript_client_compiles_and_parses_replies(server: Served, folder: Path) -> None:
    modules = TOOLS / "node" / "node_modules"
    (folder / "node_modules").symlink_to(modules)
    (folder / "package.json").write_text(json.dumps({"type": "module"}))
    run(folder, modules / ".bin" / "openapi-typescript", "openapi.json", "-o", "schema.d.ts")
    shutil.copy(SCRIPTS / "use_client.ts", folder)
    strict = ("--strict", "--noUncheckedIndexedAccess", "--module", "nodenext", "--target", "es2022", "--types", "node")
    run(folder, modules / ".bin" / "tsc", *strict, "use_client.ts")
    assert run(folder, "node", "use_client.js", server.url, "photo.png").splitlines() == [
        "caption/1",
        "caption/1 UnreadableImage",
        "a cat a dog, asleep",
        "rank",
        "text true",
        "number 1",
        "random-tiny random-tiny-vqa",
        "bad_image",
    ]


def test_nothing_in_the_description_is_anonymous(folder: Path) -> None:
    schemas = json.loads((folder / "openapi.json").read_text())["components"]["schemas"]
    for name, schema in schemas.items():
        inner = [*schema.get("properties", {}).values(), *schema.get("oneOf", [])]
        inner += [schema["items"]] if "items" in schema else []
        for part in inner:
            assert not {"properties", "oneOf", "anyOf", "allOf"} & set(part), (name, part)
    assert "url" not in schemas["CaptionBody"]["properties"]
    assert schemas["MatchBody"]["properties"]["text"]["minLength"] == 1
