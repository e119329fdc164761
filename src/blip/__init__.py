"""BLIP: captions, questions, matching, features and training. `blip.load()` returns the bundled model.

Importing this costs nothing; torch comes with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip.api import download, info, list_models, load, load_random
    from blip.apps.search.index import Index
    from blip.tokenizer import Tokenizer
    from blip_lite.errors import (
        BlipError,
        CheckpointError,
        ConfigError,
        MissingExtra,
        MissingPart,
        OfflineError,
        UnknownModel,
        UnreadableImage,
    )
    from blip_lite.explanation import Explanation
    from blip_lite.model import Model
    from blip_lite.results import Answer, Caption, Embeddings, ErrorResult, Hit, MatchResult, Verdict

_HOME = {
    **dict.fromkeys(("download", "info", "list_models", "load", "load_random"), "blip.api"),
    **dict.fromkeys(
        (
            "BlipError",
            "CheckpointError",
            "ConfigError",
            "MissingExtra",
            "MissingPart",
            "OfflineError",
            "UnknownModel",
            "UnreadableImage",
        ),
        "blip_lite.errors",
    ),
    **dict.fromkeys(
        ("Answer", "Caption", "Embeddings", "ErrorResult", "Hit", "MatchResult", "Verdict"),
        "blip_lite.results",
    ),
    "Explanation": "blip_lite.explanation",
    "Model": "blip_lite.model",
    "Index": "blip.apps.search.index",
    "Tokenizer": "blip.tokenizer",
}

__all__ = [
    "Answer",
    "BlipError",
    "Caption",
    "CheckpointError",
    "ConfigError",
    "Embeddings",
    "ErrorResult",
    "Explanation",
    "Hit",
    "Index",
    "MatchResult",
    "MissingExtra",
    "MissingPart",
    "Model",
    "OfflineError",
    "Tokenizer",
    "UnknownModel",
    "UnreadableImage",
    "Verdict",
    "download",
    "info",
    "list_models",
    "load",
    "load_random",
]

_PACKAGES = ("capfilt", "data", "eval", "train")  # for `blip.train.fit(...)` after `import blip` alone


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("blip-vlm")
    if name in _PACKAGES:
        return import_module(f"blip.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'blip' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
