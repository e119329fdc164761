"""The folder of the page: what is in it, and what is told where it cannot be made."""

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
    """A folder like the one that npm makes, named in the environment."""
    package = tmp_path / "npm" / "node_modules" / web.ORT
    (package / "dist").mkdir(parents=True)
    for name in (*web.ORT_FILES, "ort.webgpu.min.mjs"):
        (package / "dist" / name).write_bytes(name.encode())
    (package / "package.json").write_text(json.dumps({"version": web.ORT_VERSION}))
    monkeypatch.setenv(web.ORT_FOLDER, str(tmp_path / "npm"))
    return package


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder like that of an exported model; the page is copied together whatever the graphs hold."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / web.CONFIG).write_bytes((web.TINY / web.CONFIG).read_bytes())
    (folder / "vocab.txt").write_bytes((web.TINY / "vocab.txt").read_bytes())
    for name in (web.WEIGHTS, *web.CAPTION, *web.MATCH, "fuse.onnx"):
        (folder / name).write_bytes(name.encode() * 3)
    return folder


def write(exported: Path, output: Path) -> None:
    """As `blip export --to web` does it."""
    with atomic_folder(output, web.SITE) as page:
        web.write(exported, page)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("runtime")
def test_the_page_has_all_that_it_asks_for_and_no_more(exported: Path, tmp_path: Path) -> None:
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
def test_the_bundled_model_brings_its_licences(exported: Path, tmp_path: Path) -> None:
    (exported / web.WEIGHTS).write_bytes((web.TINY / web.WEIGHTS).read_bytes())
    write(exported, tmp_path / "page")
    assert json.loads((tmp_path / "page" / "site.json").read_text())["bundled"] is True
    assert {"model/LICENSE.txt", "model/README.txt", "model/LICENSE-APACHE-2.0.txt"} <= files(tmp_path / "page")


@pytest.mark.usefixtures("runtime")
def test_another_model_brings_its_own(exported: Path, tmp_path: Path) -> None:
    (exported / "LICENSE").write_text("mine")
    (exported / "README.md").write_text("about mine")
    write(exported, tmp_path / "page")
    assert (tmp_path / "page" / "model" / "LICENSE.txt").read_text() == "mine"
    assert (tmp_path / "page" / "model" / "README.txt").read_text() == "about mine"


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("text", ["{", "[]", '{"family": "none"}'])
def test_a_damaged_config_is_named(exported: Path, tmp_path: Path, text: str) -> None:
    (exported / web.CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=r"mine.config\.json: "):
        write(exported, tmp_path / "page")


@pytest.mark.usefixtures("runtime")
def test_a_model_that_only_captions_gets_a_page_without_matching(exported: Path, tmp_path: Path) -> None:
    (exported / "match.onnx").unlink()
    write(exported, tmp_path / "page")
    graphs = {path.name for path in (tmp_path / "page" / "model").glob("*.onnx")}
    assert graphs == set(web.CAPTION)


@pytest.mark.usefixtures("runtime")
def test_the_bundled_vocabulary_is_put_where_the_model_has_none(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / web.CONFIG).read_text())
    (exported / web.CONFIG).write_text(json.dumps(config | {"vocab": "bert-base-uncased"}))
    write(exported, tmp_path / "page")
    wanted = (ASSETS / "bert-base-uncased-vocab.txt").read_bytes()
    assert (tmp_path / "page" / "model" / "vocab.txt").read_bytes() == wanted


@pytest.mark.usefixtures("runtime")
@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_the_page_may_be_read_by_a_server(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()  # an empty folder is no obstacle
    write(exported, tmp_path / "page")
    assert stat.S_IMODE((tmp_path / "page").stat().st_mode) == stat.S_IMODE(exported.stat().st_mode)


@pytest.mark.usefixtures("runtime")
def test_nothing_is_overwritten(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "mine.txt").write_text("mine")
    for output in (tmp_path / "page", tmp_path / "page" / "mine.txt"):
        with pytest.raises(UsageError, match="exists; choose another name or give --overwrite"):
            write(exported, output)
    assert files(tmp_path / "page") == {"mine.txt"}


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("name", [web.CONFIG, web.WEIGHTS, *web.CAPTION])
def test_a_missing_file_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    (exported / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}; the page needs an exported model that captions"):
        write(exported, tmp_path / "page")
    assert not (tmp_path / "page").exists()


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("vocab", ["../vocab.txt", "other.txt"])
def test_a_vocabulary_elsewhere_is_refused_and_leaves_nothing(exported: Path, tmp_path: Path, vocab: str) -> None:
    config = json.loads((exported / web.CONFIG).read_text())
    (exported / web.CONFIG).write_text(json.dumps(config | {"vocab": vocab}))
    with pytest.raises(ConfigError, match="must be 'bert-base-uncased' or a file in this folder"):
        write(exported, tmp_path / "page")
    assert {path.name for path in tmp_path.iterdir()} == {"npm", "mine"}


def told(exported: Path) -> str:
    """The one line of an EnvironmentProblem (exit code 4)."""
    with pytest.raises(EnvironmentProblem) as caught:
        write(exported, exported.parent / "page")
    assert isinstance(caught.value, BlipError) and caught.value.exit_code == 4
    assert not (exported.parent / "page").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_version_of_the_runtime_is_refused(exported: Path, runtime: Path) -> None:
    (runtime / "package.json").write_text('{"version": "1.2.3"}')
    assert f"onnxruntime-web of version 1.2.3; must be {web.ORT_VERSION}" in told(exported)
    (runtime / "dist" / web.ORT_FILES[2]).unlink()
    assert f"no {web.ORT_FILES[2]}; must hold onnxruntime-web" in told(exported)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without the runtime, and a folder that alone holds commands."""
    monkeypatch.delenv(web.ORT_FOLDER, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


@pytest.mark.usefixtures("bare")
def test_without_npm_the_line_says_what_to_do(exported: Path) -> None:
    assert told(exported) == (
        "npm, which fetches onnxruntime-web, is not installed; install Node.js, or put onnxruntime-web "
        f"{web.ORT_VERSION} in a folder and name it in BLIP_ORT_WEB"
    )


@pytest.mark.skipif(os.name != "posix", reason="a shell script in place of npm")
def test_a_failing_npm_is_told_in_one_line(exported: Path, bare: Path) -> None:
    script = "#!/bin/sh\necho 'npm error code E404' >&2\necho 'npm error 404 Not Found' >&2\nexit 1\n"
    (bare / "npm").write_text(script)
    (bare / "npm").chmod(0o755)
    assert told(exported).startswith(f"npm cannot fetch onnxruntime-web@{web.ORT_VERSION} (404 Not Found); try again")


@pytest.mark.network
def test_npm_fetches_the_pinned_version(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(web.ORT_FOLDER, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    write(exported, tmp_path / "page")
    assert (tmp_path / "page" / "ort" / web.ORT_FILES[2]).stat().st_size > 10_000_000
