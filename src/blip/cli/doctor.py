"""`blip doctor`: what is installed, what is missing, and whether captions work here."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from blip.cli import options as o

PACKAGES = ("blip-vlm", "torch", "tokenizers", "safetensors", "pillow", "numpy", "huggingface-hub", "httpx2", "typer")
EXTRAS = {"data": "pyarrow", "train": "tensorboard", "heif": "pillow_heif", "video": "av", "java": "pycocoevalcap"}
CODECS = {"AVIF": "avif", "WebP": "webp", "JPEG 2000": "jpg_2000", "JPEG": "jpg", "TIFF": "libtiff"}
VARIABLES = (
    "BLIP_HOME", "BLIP_CACHE", "BLIP_MODEL", "BLIP_OFFLINE", "BLIP_DEVICE", "BLIP_DTYPE", "BLIP_THREADS", "HF_HOME",
    "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip
Report = dict[str, dict[str, Any]]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    bench: Annotated[bool, typer.Option("--bench", help="Also images per second of the bundled model.")] = False,
    debug: o.Debug = False,
) -> int:
    """Say what is here, what is missing and whether captions work. Example: blip doctor"""
    import json

    report: Report = {
        "versions": {"python": sys.version.split()[0], "system": platform.platform(), **_versions()},
        "devices": _devices(),
        "images": _codecs(),
        "extras": {extra: _extra(extra, module) for extra, module in EXTRAS.items()},
        "folders": _folders(),
        "environment": _environment(),
        "checks": {"random-tiny": _check(_captions("random-tiny")), "tiny": _check(_captions("tiny"))},
    }
    if bench:
        report["images per second"] = _bench()
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for part, values in report.items():
            print(part)
            for name, value in values.items():
                print(f"  {name:<16}{value}")
    broken = [name for name, value in report["checks"].items() if not str(value).startswith("ok")]
    if broken:
        o.note(f"blip: error: model '{broken[0]}' does not work here: {report['checks'][broken[0]]}")
    return 4 if broken else 0


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _devices() -> dict[str, Any]:
    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": ", ".join(cuda) or "none",
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
    heif = importlib.util.find_spec("pillow_heif") is not None
    return {**found, "HEIC": "yes" if heif else 'no; pip install "blip-vlm[heif]"'}


def _extra(extra: str, module: str) -> str:
    there = importlib.util.find_spec(module) is not None
    return "there" if there else f'missing; pip install "blip-vlm[{extra}]"'


def _folders() -> dict[str, str]:
    from blip.io.fetch import cache_dir, home_dir

    found = {}
    for name, folder in (("checkpoints", cache_dir()), ("home", home_dir())):
        free = shutil.disk_usage(_existing(folder)).free / 1e9
        held = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e9 if folder.is_dir() else 0.0
        found[name] = f"{folder} ({held:.1f} GB here, {free:.0f} GB free)"
    return found


def _environment() -> dict[str, str]:
    """Settings from outside, without the password that a proxy's address may hold: reports get published."""
    names = [name for name in (*VARIABLES, *(v.lower() for v in VARIABLES if "PROXY" in v)) if name in os.environ]
    return {name: re.sub(r"[^/@]*@", "***@", os.environ[name]) for name in names}


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())


def _captions(name: str) -> Callable[[], str]:
    def check() -> str:
        import numpy as np

        from blip import api

        picture = np.full((64, 64, 3), 127, np.uint8)
        start = time.perf_counter()
        api.load(name, device="cpu", offline=True).caption(picture)
        return f"ok, a caption in {time.perf_counter() - start:.1f} s"

    return check


def _check(call: Callable[[], str]) -> str:
    try:
        return call()
    except Exception as error:  # whatever it is, the report is what the user came for
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _bench() -> dict[str, str]:
    import numpy as np

    from blip import api

    model, found = api.load("tiny"), {}
    pictures = list(np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8))
    for size in (1, 4, 16):
        model.caption(pictures[:size])
        start = time.perf_counter()
        model.caption(pictures, batch_size=size)
        found[f"batches of {size}"] = f"{len(pictures) / (time.perf_counter() - start):.1f} on {model.device}"
    return found
