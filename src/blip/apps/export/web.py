"""Static web page that runs an exported model in the browser: page, model files and onnxruntime-web.

Any web server can serve it; once loaded, it works offline. onnxruntime-web comes from npm, or from a folder.
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
from blip.checkpoint.locate import CONFIG, LICENCE_FILES, WEIGHTS
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointError, ConfigError, EnvironmentProblem
from blip_lite.text_files import load_json
from blip_lite.tokenizer import BUNDLED

ORT = "onnxruntime-web"
ORT_VERSION = "1.30.0"
ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
ORT_FOLDER = "BLIP_ORT_WEB"  # environment variable: folder of the package, or one in which npm installed it
ORT_SECONDS = 300  # time limit of npm

ASSETS = Path(__file__).parents[2] / "assets"
PAGE, PHOTOS = ASSETS / "web", ASSETS / "examples"
TINY = blip_lite.ASSETS / "tiny"
SITE, VOCAB = "site.json", "vocab.txt"
CAPTION, MATCH = ("vision.onnx", "cross.onnx", "decoder.onnx"), ("text.onnx", "match.onnx")


def write(folder: Path, page: Path) -> None:
    """Fill the empty folder `page` with the page of an exported model.

    Raises CheckpointError if a graph needed for captions is missing, EnvironmentProblem if onnxruntime-web is neither
    installed nor can be fetched by npm.
    """
    graphs = _graph_files(folder)
    with _runtime() as runtime:
        shutil.copytree(PAGE, page, dirs_exist_ok=True)
        _copy_photos(page / "examples")
        for name in ORT_FILES:
            shutil.copyfile(runtime / name, page / "ort" / name)
    _copy_model(folder, graphs, page / "model")
    site = {"name": folder.name, "bundled": _is_tiny(folder), "files": _download_list(page, graphs)}
    (page / SITE).write_text(json.dumps(site, indent=1) + "\n", encoding="utf-8")


def _graph_files(folder: Path) -> list[str]:
    """Return the graphs that the page uses, with those for matching if the model has both."""
    for name in (CONFIG, WEIGHTS, *CAPTION):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}; the page needs an exported caption model")
    can_match = all((folder / name).is_file() for name in MATCH)
    return [*CAPTION, *(MATCH if can_match else ())]


def _copy_photos(folder: Path) -> None:
    folder.mkdir()
    for source in PHOTOS.iterdir():
        shutil.copyfile(source, folder / source.name.replace(".md", ".txt"))  # browsers display .txt


def _copy_model(folder: Path, graphs: list[str], model: Path) -> None:
    model.mkdir()
    for name in (CONFIG, WEIGHTS, *graphs):
        shutil.copyfile(folder / name, model / name)
    shutil.copyfile(_vocabulary(folder), model / VOCAB)
    for path in _licence_files(folder):
        shutil.copyfile(path, model / f"{path.name.removesuffix('.md').removesuffix('.txt')}.txt")  # displayed as text


def _licence_files(folder: Path) -> list[Path]:
    """Return the licences and descriptions of the model."""
    if _is_tiny(folder):
        return [TINY / "LICENSE", TINY / "README.md", blip_lite.ASSETS / "LICENSE-APACHE-2.0"]
    return [folder / name for name in LICENCE_FILES if (folder / name).is_file()]


def _vocabulary(folder: Path) -> Path:
    try:
        config = BlipConfig.from_dict(load_json(folder / CONFIG))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {' '.join(str(error).split())}") from error
    if config.vocab == BUNDLED:
        return blip_lite.ASSETS / f"{BUNDLED}-vocab.txt"
    if Path(config.vocab).name != config.vocab or not (folder / config.vocab).is_file():
        raise ConfigError(f"{folder / CONFIG}: vocab '{config.vocab}'; must be '{BUNDLED}' or a file in this folder")
    return folder / config.vocab


def _is_tiny(folder: Path) -> bool:
    return filecmp.cmp(folder / WEIGHTS, TINY / WEIGHTS, shallow=False)


def _download_list(page: Path, graphs: list[str]) -> list[dict[str, str | int]]:
    """Files that the page downloads at its start. Versions are content hashes, so that caches never mix two pages."""
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
    """Folder of onnxruntime-web's files: an installed one, else a temporary one filled by npm."""
    configured = os.environ.get(ORT_FOLDER)
    if configured:
        yield _check_runtime(_find_dist(Path(configured)), f"{ORT_FOLDER}={configured}")
        return
    installed = Path(sys.prefix) / "web" / "node_modules" / ORT
    if installed.is_dir():
        yield _check_runtime(installed / "dist", str(installed))
        return
    with tempfile.TemporaryDirectory() as folder:
        _install(folder)
        yield _check_runtime(Path(folder) / "node_modules" / ORT / "dist", f"{ORT}@{ORT_VERSION} fetched by npm")


def _find_dist(folder: Path) -> Path:
    """Return `dist` of the package, given its own folder or one in which it was installed."""
    choices = (folder / "dist", folder / ORT / "dist", folder / "node_modules" / ORT / "dist")
    return next((choice for choice in choices if choice.is_dir()), choices[0])


def _check_runtime(dist: Path, origin: str) -> Path:
    """Return the folder if it contains the version that the page was written for, else raise EnvironmentProblem."""
    missing = next((name for name in ORT_FILES if not (dist / name).is_file()), None)
    if missing is not None:
        raise EnvironmentProblem(f"{origin}: no {missing}; must contain {ORT} {ORT_VERSION} as installed by npm")
    try:
        version = load_json(dist.parent / "package.json")["version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = "unknown"
    if version != ORT_VERSION:
        raise EnvironmentProblem(f"{origin}: {ORT} has version {version}; must be {ORT_VERSION}")
    return dist


def _install(folder: str) -> None:
    npm = shutil.which("npm")
    hint = f"set {ORT_FOLDER} to a folder with {ORT} {ORT_VERSION}"
    if npm is None:
        raise EnvironmentProblem(f"npm, needed to fetch {ORT}, is not installed; install Node.js, or {hint}")
    command = [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder]
    try:
        result = subprocess.run(
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
    if result.returncode:
        raise EnvironmentProblem(
            f"npm cannot fetch {ORT}@{ORT_VERSION} ({_error_line(result.stderr)}); try again, or {hint}"
        )


def _error_line(log: str) -> str:
    """Return the line of npm's log that describes the error."""
    lines = [line.removeprefix("npm error").strip() for line in log.splitlines() if line.startswith("npm error")]
    messages = [
        line for line in lines if line and not line.startswith(("code ", "errno ", "A complete log", "syscall "))
    ]
    return (messages or lines or ["no reason given"])[0][:200]
