"""BLIP without torch: the base that `blip` stands on, and exported models over numpy and onnxruntime.

`blip_lite.load()` gives the bundled model. Importing this costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blip_lite.paths import ASSETS

if TYPE_CHECKING:
    from blip_lite.model import Model, load

__version__ = "0.1.0"  # of both packages; their build files read it here
__all__ = ["ASSETS", "Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'blip_lite' has no attribute '{name}'")
    value = getattr(import_module("blip_lite.model"), name)
    globals()[name] = value
    return value
