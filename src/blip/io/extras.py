"""Extras of the package: the modules that each brings, and how to install it."""

from __future__ import annotations

import importlib.util

from blip_lite.errors import MissingExtra

# all modules of an extra: one of them may be installed for another reason
EXTRAS = {
    "data": ("pyarrow",),
    "capfilt": ("duckdb", "pyarrow"),
    "train": ("tensorboard",),
    "heif": ("pillow_heif",),
    "video": ("av",),
    "java": ("pycocoevalcap",),
    "search": ("usearch",),
    "serve": ("async_batcher", "starlette", "uvicorn", "pydantic", "prometheus_client", "python_multipart"),
    "demo": ("gradio", "usearch"),
    "ray": ("ray", "pandas", "pyarrow"),
    "onnx": ("onnx", "onnxscript"),
    "docs": ("mkdocs", "material", "mkdocstrings"),
    "notebook": ("nbclient", "ipykernel"),
}


def is_installed(extra: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra])


def install_command(*extras: str) -> str:
    return f'pip install "blip-vlm[{",".join(extras)}]"'


def require_extras(what: str, *extras: str) -> None:
    """Raise MissingExtra if a module of the extras is not installed."""
    if not all(is_installed(extra) for extra in extras):
        raise MissingExtra(f"{what} needs an extra: {install_command(*extras)}")
