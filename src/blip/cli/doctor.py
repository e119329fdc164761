"""`blip doctor`: what is installed, what is missing, whether captions are right here, and what to type next."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import stat
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from blip.cli import options as o
from blip.cli.commands import command, option

PACKAGES = (
    "blip-vlm",
    "blip-vlm-lite",
    "torch",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "pillow",
    "numpy",
    "huggingface-hub",
    "httpx2",
    "click",
)
# every module that an extra brings: one of them may be there for another's sake
EXTRAS = {
    "data": ("pyarrow",),
    "train": ("tensorboard",),
    "heif": ("pillow_heif",),
    "video": ("av",),
    "java": ("pycocoevalcap",),
    "search": ("usearch",),
    "serve": ("async_batcher", "starlette", "uvicorn", "pydantic", "prometheus_client", "python_multipart"),
    "demo": ("gradio", "usearch"),
    "ray": ("ray",),
    "onnx": ("onnx", "onnxscript"),
    "docs": ("mkdocs", "material", "mkdocstrings"),
    "notebook": ("nbclient", "ipykernel"),
}
CODECS = {"AVIF": "avif", "WebP": "webp", "JPEG 2000": "jpg_2000", "JPEG": "jpg", "TIFF": "libtiff"}
VARIABLES = (
    "BLIP_HOME",
    "BLIP_CACHE",
    "BLIP_MODEL",
    "BLIP_OFFLINE",
    "BLIP_DEVICE",
    "BLIP_DTYPE",
    "BLIP_THREADS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
)
# files in the working folder that an extra reads
NEEDS = {"heif": (".heic", ".heif", ".hif"), "video": (".mp4", ".mov", ".mkv", ".webm", ".avi"), "data": (".parquet",)}
Report = dict[str, dict[str, Any]]


@command
def doctor(
    as_json: Annotated[bool, option("--json", help="Print one JSON object.")] = False,
    bench: Annotated[bool, option(help="Also measure images per second of the bundled model.")] = False,
) -> int:
    """Report what is installed and missing, check captions, and suggest a command.

    Example: blip doctor
    """
    import json

    from blip.cli import selftest

    report: Report = {
        "versions": {"python": sys.version.split()[0], "system": platform.platform(), **_versions()},
        "devices": _devices(),
        "images": _codecs(),
        "extras": {extra: _extra(extra) for extra in EXTRAS},
        "folders": _folders(),
        "models": _models(),
        "environment": _environment(),
        "checks": {"random-tiny": selftest.outcome(selftest.random_model)},
    }
    trials = list(selftest.trials())
    report["checks"] |= {f"tiny, {t.name}": selftest.outcome(selftest.parity, t) for t in trials}
    needed = ["random-tiny", *(f"tiny, {t.name}" for t in trials if t.needed)]
    broken = [name for name in needed if not report["checks"][name].startswith(selftest.OK)]
    if bench and not broken:
        report["images per second"] = selftest.speed()
    report["next"] = {"command": _next(report, broken)}
    _show(report, as_json, json.dumps(report, ensure_ascii=False))
    if broken:
        o.note(f"blip: error: model '{broken[0]}' does not work here: {report['checks'][broken[0]]}")
    return 4 if broken else 0


def _show(report: Report, as_json: bool, line: str) -> None:
    if as_json:
        print(line)
        return
    for part, values in report.items():
        if part == "next":
            print(f"\nnext: {values['command']}")
        elif values:
            print(part)
            for name, value in values.items():
                print(f"  {name:<18}{value}")


def _versions() -> dict[str, str]:
    found = {name: _version(name) or "missing" for name in PACKAGES}
    other = _version("blip")
    if other is not None:
        found["blip"] = f"{other}, an unrelated package that takes the same name; {_RENAME}"
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


_RENAME = "pip uninstall blip && pip install --force-reinstall --no-deps blip-vlm"


def _devices() -> dict[str, Any]:
    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    absent = "none"
    if not cuda and shutil.which("nvidia-smi"):
        kind = "its driver does not answer" if torch.version.cuda else "this torch is built for CPUs only"
        absent = f"none, though nvidia-smi is here: {kind}"
    return {
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": ", ".join(cuda) or absent,
        "mps": "there" if torch.backends.mps.is_available() else "none",
        "dtypes": "fp32, bf16, fp16"
        if cuda and torch.cuda.is_bf16_supported()
        else "fp32, fp16"
        if cuda
        else "fp32, bf16",
    }


def _codecs() -> dict[str, str]:
    from PIL import features

    found = {name: "yes" if features.check(codec) else "no" for name, codec in CODECS.items()}
    optional = {"HEIC": "heif", "video": "video"}
    return found | {name: "yes" if _there(extra) else f"no; {_install(extra)}" for name, extra in optional.items()}


def _there(extra: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra])


def _install(extra: str) -> str:
    return f'pip install "blip-vlm[{extra}]"'


def _extra(extra: str) -> str:
    if not _there(extra):
        return f"missing; {_install(extra)}"
    return "there, but no java on the PATH" if extra == "java" and shutil.which("java") is None else "there"


def _folders() -> dict[str, str]:
    from blip.io.fetch import cache_dir, home_dir

    places = {"checkpoints": cache_dir(), "home": home_dir(), "hub": _hub_cache()}
    return {
        name: f"{folder} ({_held(folder):.1f} GB here, {_free(folder):.0f} GB free)" for name, folder in places.items()
    }


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _held(folder: Path) -> float:
    """GB of a folder's files, links left out; what cannot be looked at, or goes meanwhile, counts as nothing."""
    held = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found = os.lstat(os.path.join(at, name))
                held += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return held / 1e9


def _free(folder: Path) -> float:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return shutil.disk_usage(existing).free / 1e9


def _models() -> dict[str, str]:
    """What works with no download."""
    from blip.checkpoint.catalogue import ENTRIES
    from blip.checkpoint.locate import imported_dir, is_cached

    here = [entry.name for entry in ENTRIES if entry.source != "random" and is_cached(entry)]
    own = sorted(path.parent.name for path in imported_dir().glob("*/config.json"))
    return {"here": ", ".join(here), **({"imported": ", ".join(own)} if own else {})}


def _environment() -> dict[str, str]:
    """Settings from outside, without the password that a proxy's address may hold: reports get published."""
    names = [name for name in (*VARIABLES, *(v.lower() for v in VARIABLES if "PROXY" in v)) if name in os.environ]
    return {name: _public(name, os.environ[name]) for name in names}


def _public(name: str, value: str) -> str:
    return re.sub(r"^(\w+://)?.*@", r"\1***@", value) if "PROXY" in name.upper() else value


def _next(report: Report, broken: list[str]) -> str:
    """The one command that helps most: repair, else an extra for the files of this folder, else a caption."""
    if "blip" in report["versions"]:
        return _RENAME
    if any("cpu" in name or name == "random-tiny" for name in broken):
        return "pip install --force-reinstall --no-deps blip-vlm"
    suffixes = _suffixes()
    for extra, endings in NEEDS.items():
        if suffixes.intersection(endings) and report["extras"][extra].startswith("missing"):
            return _install(extra)
    from blip_lite.image import EXTENSIONS

    what = "." if suffixes.intersection(EXTENSIONS) else "PHOTO.jpg"
    device = " --device cpu" if broken else ""
    better = " -m caption-base" if "caption-base" in report["models"]["here"].split(", ") else ""
    return f"blip caption {what}{better}{device}"


def _suffixes() -> set[str]:
    """The endings of the files here; none where the folder may not be read."""
    with suppress(OSError):
        return {path.suffix.lower() for path in Path().iterdir() if not path.name.startswith(".")}
    return set()
