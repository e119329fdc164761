"""A static page that runs an exported model in the browser: our page, the model's files, onnxruntime-web.

The page needs any web server and, once loaded, no network. onnxruntime-web comes from npm, or from a folder.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import blip_lite
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointError, ConfigError, EnvironmentProblem
from blip_lite.tokenizer import BUNDLED

ORT = "onnxruntime-web"
ORT_VERSION = "1.30.0"
ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
ORT_FOLDER = "BLIP_ORT_WEB"  # environment: a folder that npm installed the package in, or the package itself
ORT_SECONDS = 300

ASSETS = Path(__file__).parents[2] / "assets"
PAGE, PHOTOS = ASSETS / "web", ASSETS / "examples"
TINY = blip_lite.ASSETS / "tiny"
SITE = "site.json"  # by which a page is known
WEIGHTS, CONFIG, VOCAB = "model.safetensors", "config.json", "vocab.txt"
PAPERS = ("LICENSE", "LICENSE.txt", "NOTICE.md", "README.md")
CAPTION, MATCH = ("vision.onnx", "cross.onnx", "decoder.onnx"), ("text.onnx", "match.onnx")


def write(folder: Path, page: Path) -> None:
    """Fills the empty folder `page` with the page of an exported ONNX folder.

    Raises CheckpointError where a graph is missing that captions need, EnvironmentProblem without npm and without a
    folder that has onnxruntime-web.
    """
    graphs = _graphs(folder)
    with _runtime() as runtime:
        shutil.copytree(PAGE, page, dirs_exist_ok=True)
        _copy_photos(page / "examples")
        for name in ORT_FILES:
            shutil.copyfile(runtime / name, page / "ort" / name)
    _copy_model(folder, graphs, page / "model")
    site = {"name": folder.name, "bundled": _is_tiny(folder), "files": _listed(page, graphs)}
    (page / SITE).write_text(json.dumps(site, indent=1) + "\n", encoding="utf-8")


def _graphs(folder: Path) -> list[str]:
    """The graphs that the page uses; those of matching only where the model has both."""
    for name in (CONFIG, WEIGHTS, *CAPTION):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}; the page needs an exported model that captions")
    can_match = all((folder / name).is_file() for name in MATCH)
    return [*CAPTION, *(MATCH if can_match else ())]


def _copy_photos(folder: Path) -> None:
    folder.mkdir()
    for source in PHOTOS.iterdir():
        shutil.copyfile(source, folder / source.name.replace(".md", ".txt"))  # which browsers show


def _copy_model(folder: Path, graphs: list[str], model: Path) -> None:
    model.mkdir()
    for name in (CONFIG, WEIGHTS, *graphs):
        shutil.copyfile(folder / name, model / name)
    shutil.copyfile(_vocabulary(folder), model / VOCAB)
    for paper in _papers(folder):
        shutil.copyfile(paper, model / f"{paper.name.removesuffix('.md').removesuffix('.txt')}.txt")  # shown as text


def _papers(folder: Path) -> list[Path]:
    """Licences and descriptions that go with the model."""
    if _is_tiny(folder):
        return [TINY / "LICENSE", TINY / "README.md", blip_lite.ASSETS / "LICENSE-APACHE-2.0"]
    return [folder / name for name in PAPERS if (folder / name).is_file()]


def _vocabulary(folder: Path) -> Path:
    try:
        config = BlipConfig.from_dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {' '.join(str(error).split())}") from error
    if config.vocab == BUNDLED:
        return blip_lite.ASSETS / f"{BUNDLED}-vocab.txt"
    if Path(config.vocab).name != config.vocab or not (folder / config.vocab).is_file():
        raise ConfigError(f"{folder / CONFIG}: vocab '{config.vocab}'; must be '{BUNDLED}' or a file in this folder")
    return folder / config.vocab


def _is_tiny(folder: Path) -> bool:
    return filecmp.cmp(folder / WEIGHTS, TINY / WEIGHTS, shallow=False)


def _listed(page: Path, graphs: list[str]) -> list[dict[str, str | int]]:
    """What the page downloads before it starts. The version changes with the content, so caches never mix two pages."""
    paths = [f"ort/{ORT_FILES[-1]}", *(f"model/{name}" for name in (CONFIG, VOCAB, *graphs, WEIGHTS))]
    return [
        {
            "path": path,
            "bytes": (page / path).stat().st_size,
            "version": hashlib.sha256((page / path).read_bytes()).hexdigest()[:16],
        }
        for path in paths
    ]


@contextmanager
def _runtime() -> Iterator[Path]:
    """The folder of onnxruntime-web's files: one that is there, else what npm fetches into a temporary one."""
    named = os.environ.get(ORT_FOLDER)
    if named:
        yield _checked(_dist(Path(named)), f"{ORT_FOLDER}={named}")
        return
    installed = Path(sys.prefix) / "web" / "node_modules" / ORT
    if installed.is_dir():
        yield _checked(installed / "dist", str(installed))
        return
    with tempfile.TemporaryDirectory() as folder:
        _install(folder)
        yield _checked(Path(folder) / "node_modules" / ORT / "dist", f"what npm fetched as {ORT}@{ORT_VERSION}")


def _dist(folder: Path) -> Path:
    """`dist` of the package, given its own folder or one that it was installed in."""
    choices = (folder / "dist", folder / ORT / "dist", folder / "node_modules" / ORT / "dist")
    return next((choice for choice in choices if choice.is_dir()), choices[0])


def _checked(dist: Path, what: str) -> Path:
    """The folder, if it holds the version that the page was written for."""
    missing = next((name for name in ORT_FILES if not (dist / name).is_file()), None)
    if missing is not None:
        raise EnvironmentProblem(f"{what}: no {missing}; must hold {ORT} {ORT_VERSION} as npm installs it")
    try:
        version = json.loads((dist.parent / "package.json").read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = "unknown"
    if version != ORT_VERSION:
        raise EnvironmentProblem(f"{what}: {ORT} of version {version}; must be {ORT_VERSION}")
    return dist


def _install(folder: str) -> None:
    npm = shutil.which("npm")
    hint = f"put {ORT} {ORT_VERSION} in a folder and name it in {ORT_FOLDER}"
    if npm is None:
        raise EnvironmentProblem(f"npm, which fetches {ORT}, is not installed; install Node.js, or {hint}")
    command = [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder]
    try:
        done = subprocess.run(
            [*command, f"{ORT}@{ORT_VERSION}"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentProblem(
            f"npm did not fetch {ORT} within {ORT_SECONDS} seconds; try again, or {hint}"
        ) from error
    except OSError as error:
        raise EnvironmentProblem(f"{npm}: cannot be run ({error.strerror or error}); {hint}") from error
    if done.returncode:
        raise EnvironmentProblem(f"npm cannot fetch {ORT}@{ORT_VERSION} ({_reason(done.stderr)}); try again, or {hint}")


def _reason(log: str) -> str:
    """The line of npm's log that says what went wrong."""
    lines = [line.removeprefix("npm error").strip() for line in log.splitlines() if line.startswith("npm error")]
    told = [line for line in lines if line and not line.startswith(("code ", "errno ", "A complete log", "syscall "))]
    return (told or lines or ["no reason given"])[0][:200]
