"""Folder of the browser page: its files, and errors when it cannot be written."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from blip.apps.export import web
from blip.io.atomic import atomic_folder
from blip_lite import ASSETS
from blip_lite.errors import BlipError, CheckpointError, ConfigError, EnvironmentProblem, UsageError


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder like that of an npm installation, set in the environment."""
    package = tmp_path / "npm" / "node_modules" / web.ORT
    (package / "dist").mkdir(parents=True)
    for name in (*web.ORT_FILES, "ort.webgpu.min.mjs"):
        (package / "dist" / name).write_bytes(name.encode())
    (package / "package.json").write_text(json.dumps({"version": web.ORT_VERSION}))
    monkeypatch.setenv(web.ORT_FOLDER, str(tmp_path / "npm"))
    return package


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Folder like that of an exported model; the content of the graphs does not matter here."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / web.CONFIG).write_bytes((web.TINY / web.CONFIG).read_bytes())
    (folder / "vocab.txt").write_bytes((web.TINY / "vocab.txt").read_bytes())
    for name in (web.WEIGHTS, *web.CAPTION, *web.MATCH, "fuse.onnx"):
        (folder / name).write_bytes(name.encode() * 3)
    return folder


def write(exported: Path, output: Path) -> None:
    """Write the page as `blip export --to web` does."""
    with atomic_folder(output, web.SITE) as page:
        web.write(exported, page)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("runtime")
def test_page_contains_exactly_the_files_that_it_requests(exported: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "page"
    write(exported, output)
    site = json.loads((output / "site.json").read_text())
    assert site["bundled"] is False
    model = {f"model/{name}" for name in (web.CONFIG, web.VOCAB, web.WEIGHTS, *web.CAPTION, *web.MATCH)}
    assert {file["path"] for file in site["files"]} == model | {"ort/ort-wasm-simd-threaded.wasm"}
    model |= {f"examples/{path.name.replace('.md', '.txt')}" for path in web.PHOTOS.iterdir()}
    assert files(output) == files(web.PAGE) | model | {f"ort/{name}" for name in web.ORT_FILES} | {"site.json"}
    for file in site["files"]:
        data = (output / file["path"]).read_bytes()
        assert (file["bytes"], file["version"]) == (len(data), hashlib.sha256(data).hexdigest()[:16])
    assert [path.name for path in output.parent.iterdir()] == ["page"]


@pytest.mark.usefixtures("runtime")
def test_licences_of_the_bundled_model_are_copied(exported: Path, tmp_path: Path) -> None:
    (exported / web.WEIGHTS).write_bytes((web.TINY / web.WEIGHTS).read_bytes())
    write(exported, tmp_path / "page")
    assert json.loads((tmp_path / "page" / "site.json").read_text())["bundled"] is True
    assert {"model/LICENSE.txt", "model/README.txt", "model/LICENSE-APACHE-2.0.txt"} <= files(tmp_path / "page")


@pytest.mark.usefixtures("runtime")
def test_licences_of_another_model_are_copied(exported: Path, tmp_path: Path) -> None:
    (exported / "LICENSE").write_text("mine")
    (exported / "README.md").write_text("about mine")
    write(exported, tmp_path / "page")
    assert (tmp_path / "page" / "model" / "LICENSE.txt").read_text() == "mine"
    assert (tmp_path / "page" / "model" / "README.txt").read_text() == "about mine"


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("text", ["{", "[]", '{"family": "none"}'])
def test_damaged_config_is_reported(exported: Path, tmp_path: Path, text: str) -> None:
    (exported / web.CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=r"mine.config\.json: "):
        write(exported, tmp_path / "page")


@pytest.mark.usefixtures("runtime")
def test_caption_model_has_a_page_without_matching(exported: Path, tmp_path: Path) -> None:
    (exported / "match.onnx").unlink()
    write(exported, tmp_path / "page")
    graphs = {path.name for path in (tmp_path / "page" / "model").glob("*.onnx")}
    assert graphs == set(web.CAPTION)


@pytest.mark.usefixtures("runtime")
def test_bundled_vocabulary_is_copied_if_the_model_has_none(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / web.CONFIG).read_text())
    (exported / web.CONFIG).write_text(json.dumps(config | {"vocab": "bert-base-uncased"}))
    write(exported, tmp_path / "page")
    expected = (ASSETS / "bert-base-uncased-vocab.txt").read_bytes()
    assert (tmp_path / "page" / "model" / "vocab.txt").read_bytes() == expected


@pytest.mark.usefixtures("runtime")
@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_page_folder_has_default_permissions(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()  # an empty folder may exist
    write(exported, tmp_path / "page")
    assert stat.S_IMODE((tmp_path / "page").stat().st_mode) == stat.S_IMODE(exported.stat().st_mode)


@pytest.mark.usefixtures("runtime")
def test_existing_output_is_kept(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "mine.txt").write_text("mine")
    for output in (tmp_path / "page", tmp_path / "page" / "mine.txt"):
        with pytest.raises(UsageError, match="exists; choose another name or give --overwrite"):
            write(exported, output)
    assert files(tmp_path / "page") == {"mine.txt"}


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("name", [web.CONFIG, web.WEIGHTS, *web.CAPTION])
def test_missing_file_is_reported(exported: Path, tmp_path: Path, name: str) -> None:
    (exported / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}; the page needs an exported caption model"):
        write(exported, tmp_path / "page")
    assert not (tmp_path / "page").exists()


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("vocab", ["../vocab.txt", "other.txt"])
def test_vocabulary_outside_the_folder_is_rejected(exported: Path, tmp_path: Path, vocab: str) -> None:
    config = json.loads((exported / web.CONFIG).read_text())
    (exported / web.CONFIG).write_text(json.dumps(config | {"vocab": vocab}))
    with pytest.raises(ConfigError, match="must be 'bert-base-uncased' or a file in this folder"):
        write(exported, tmp_path / "page")
    assert {path.name for path in tmp_path.iterdir()} == {"npm", "mine"}


def error_of(exported: Path) -> str:
    """Return the message of the EnvironmentProblem (exit code 4), which is one line."""
    with pytest.raises(EnvironmentProblem) as caught:
        write(exported, exported.parent / "page")
    assert isinstance(caught.value, BlipError) and caught.value.exit_code == 4
    assert not (exported.parent / "page").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_runtime_version_is_rejected(exported: Path, runtime: Path) -> None:
    (runtime / "package.json").write_text('{"version": "1.2.3"}')
    assert f"onnxruntime-web has version 1.2.3; must be {web.ORT_VERSION}" in error_of(exported)
    (runtime / "dist" / web.ORT_FILES[2]).unlink()
    assert f"no {web.ORT_FILES[2]}; must contain onnxruntime-web" in error_of(exported)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environment without the runtime; the returned folder is the only one in PATH."""
    monkeypatch.delenv(web.ORT_FOLDER, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


@pytest.mark.usefixtures("bare")
def test_missing_npm_is_reported_with_advice(exported: Path) -> None:
    assert error_of(exported) == (
        "npm, needed to fetch onnxruntime-web, is not installed; install Node.js, or set BLIP_ORT_WEB to a folder with "
        f"onnxruntime-web {web.ORT_VERSION}"
    )


@pytest.mark.skipif(os.name != "posix", reason="a shell script in place of npm")
def test_npm_failure_is_one_line(exported: Path, bare: Path) -> None:
    script = "#!/bin/sh\necho 'npm error code E404' >&2\necho 'npm error 404 Not Found' >&2\nexit 1\n"
    (bare / "npm").write_text(script)
    (bare / "npm").chmod(0o755)
    assert error_of(exported).startswith(
        f"npm cannot fetch onnxruntime-web@{web.ORT_VERSION} (404 Not Found); try again"
    )


@pytest.mark.network
def test_npm_fetches_the_pinned_version(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(web.ORT_FOLDER, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    write(exported, tmp_path / "page")
    assert (tmp_path / "page" / "ort" / web.ORT_FILES[2]).stat().st_size > 10_000_000
