"""BLIP without torch: images, tokenizer, decoding, results, and exported models on numpy and onnxruntime.

`blip_lite.load()` returns the bundled model. Importing this package imports neither.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip_lite.model import Model
    from blip_lite.onnx_backend import load

__version__ = "0.1.0"  # of both packages; their build files read it here
__all__ = ["ASSETS", "Model", "__version__", "load"]

ASSETS = Path(__file__).parent / "assets"


_MODULES = {"Model": "blip_lite.model", "load": "blip_lite.onnx_backend"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'blip_lite' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
