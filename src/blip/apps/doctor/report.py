"""Report of an installation: versions, devices, extras, folders, models, checks and the most useful next command."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from blip.apps.doctor import selftest
from blip.io.extras import EXTRAS, install_command, is_installed

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
RENAME = "pip uninstall blip && pip install --force-reinstall --no-deps blip-vlm"
# extensions of the files that an extra reads
NEEDS = {"heif": (".heic", ".heif", ".hif"), "video": (".mp4", ".mov", ".mkv", ".webm", ".avi"), "data": (".parquet",)}
Report = dict[str, dict[str, Any]]


def make_report(*, bench: bool = False) -> tuple[Report, list[str]]:
    """Return the report, with images per second for `bench`, and the names of the needed checks that failed."""
    report: Report = {
        "versions": {"python": sys.version.split()[0], "system": platform.platform(), **_versions()},
        "devices": _devices(),
        "images": _codecs(),
        "extras": {extra: _extra(extra) for extra in EXTRAS},
        "folders": _folders(),
        "models": _models(),
        "environment": _environment(),
        "checks": {name: selftest.outcome(check) for name, check in selftest.CHECKS.items()},
    }
    trials = list(selftest.trials())
    report["checks"] |= {f"tiny, {t.name}": selftest.outcome(selftest.parity, t) for t in trials}
    needed = [*selftest.CHECKS, *(f"tiny, {t.name}" for t in trials if t.needed)]
    broken = [name for name in needed if not report["checks"][name].startswith(selftest.OK)]
    if bench and not broken:
        report["images per second"] = selftest.speed()
    report["next"] = {"command": _next(report, broken)}
    return report, broken


def _versions() -> dict[str, str]:
    versions = {name: _version(name) or "missing" for name in PACKAGES}
    other = _version("blip")
    if other is not None:
        versions["blip"] = f"{other}, an unrelated package that takes the same name; {RENAME}"
    return versions


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    import torch

    from blip.model import int8_linear

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    missing = "none"
    if not cuda and shutil.which("nvidia-smi"):
        reason = "its driver does not respond" if torch.version.cuda else "this torch is built for CPUs only"
        missing = f"none, though nvidia-smi is installed: {reason}"
    dtypes = ["fp32"]
    if not cuda or torch.cuda.is_bf16_supported():
        dtypes.append("bf16")
    if cuda:
        dtypes.append("fp16")
    if int8_linear.supports():
        dtypes.append("int8 (CPU)")
    return {
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": ", ".join(cuda) or missing,
        "mps": "available" if torch.backends.mps.is_available() else "none",
        "dtypes": ", ".join(dtypes),
    }


def _codecs() -> dict[str, str]:
    from PIL import features

    codecs = {name: "yes" if features.check(codec) else "no" for name, codec in CODECS.items()}
    for name, extra in (("HEIC", "heif"), ("video", "video")):
        codecs[name] = "yes" if is_installed(extra) else f"no; {install_command(extra)}"
    return codecs


def _extra(extra: str) -> str:
    if not is_installed(extra):
        return f"missing; {install_command(extra)}"
    return "installed, but no java on the PATH" if extra == "java" and shutil.which("java") is None else "installed"


def _folders() -> dict[str, str]:
    from huggingface_hub import constants

    from blip.io.fetch import cache_dir, home_dir

    folders = {"checkpoints": cache_dir(), "home": home_dir(), "hub": Path(constants.HF_HUB_CACHE)}
    return {name: f"{folder} ({_state(folder)})" for name, folder in folders.items()}


def _state(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = f"{shutil.disk_usage(existing).free / 1e9:.0f} GB free"
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return f"{_used(folder):.1f} GB used, not writable"
    return f"{_used(folder):.1f} GB used, {free}"


def _used(folder: Path) -> float:
    """Return the size of a folder's files in GB, without links and what cannot be read or disappears meanwhile."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(parent, name))
                size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return size / 1e9


def _models() -> dict[str, str]:
    """Return the models that work without a download."""
    from blip.checkpoint.catalogue import ENTRIES
    from blip.checkpoint.locate import imported_names, is_cached

    available = [entry.name for entry in ENTRIES if entry.source != "random" and is_cached(entry)]
    imported = imported_names()
    return {"available": ", ".join(available), **({"imported": ", ".join(imported)} if imported else {})}


def _environment() -> dict[str, str]:
    """Return the variables that are set, without passwords in proxy addresses: reports get published."""
    names = [name for name in (*VARIABLES, *(v.lower() for v in VARIABLES if "PROXY" in v)) if name in os.environ]
    return {name: _without_password(name, os.environ[name]) for name in names}


def _without_password(name: str, value: str) -> str:
    return re.sub(r"^(\w+://)?.*@", r"\1***@", value) if "PROXY" in name.upper() else value


def _next(report: Report, broken: list[str]) -> str:
    """Return the most useful command: a repair, else an extra for files of this folder, else a caption."""
    if "blip" in report["versions"]:
        return RENAME
    if any("cpu" in name or name == "random-tiny" for name in broken):
        return "pip install --force-reinstall --no-deps blip-vlm"
    suffixes = _suffixes()
    for extra, extensions in NEEDS.items():
        if suffixes.intersection(extensions) and report["extras"][extra].startswith("missing"):
            return install_command(extra)
    from blip_lite.image import EXTENSIONS

    inputs = "." if suffixes.intersection(EXTENSIONS) else "PHOTO.jpg"
    device = " --device cpu" if broken else ""
    model = " -m caption-base" if "caption-base" in report["models"]["available"].split(", ") else ""
    return f"blip caption {inputs}{model}{device}"


def _suffixes() -> set[str]:
    """Return the extensions of the files in the working folder, none if it cannot be read."""
    with suppress(OSError):
        return {path.suffix.lower() for path in Path().iterdir() if not path.name.startswith(".")}
    return set()
