"""METEOR and SPICE through the reference package (pycocoevalcap), which runs Java; skipped with a reason without it."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blip.io.fetch import is_offline
from blip.metrics.arguments import References, Texts, caption_lists

logger = logging.getLogger(__name__)

SCORERS = {"meteor": ("pycocoevalcap.meteor.meteor", "Meteor"), "spice": ("pycocoevalcap.spice.spice", "Spice")}


def scores(references: References, captions: Texts) -> tuple[dict[str, float], dict[str, str]]:
    """Return scores of the set by name, and the reasons for missing ones. Arguments: as for `score_captions`."""
    references, captions = caption_lists(references, captions)
    reason = missing()
    if reason:
        return {}, dict.fromkeys(SCORERS, reason)
    from blip.metrics.caption import tokenize

    refs = {i: [" ".join(tokenize(text)) for text in texts] for i, texts in enumerate(references)}
    candidates = {i: [" ".join(tokenize(text))] for i, text in enumerate(captions)}
    results: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name, (module, scorer) in SCORERS.items():
        if name == "spice" and is_offline() and not _has_parser():
            skipped[name] = "SPICE downloads its parser on the first run; run once without --offline"
            continue
        try:
            results[name] = _run(getattr(import_module(module), scorer), refs, candidates)
        except Exception as error:  # Java and the download can fail in any way
            skipped[name] = f"{scorer} failed ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    return results, skipped


def missing() -> str:
    """Return why Java metrics are not available, empty if they are."""
    if shutil.which("java") is None:
        return "java not found; install a Java runtime (8 or newer)"
    if find_spec("pycocoevalcap") is None:
        return 'needs an extra: pip install "blip-vlm[java]"'
    return ""


def _has_parser() -> bool:
    """Whether the parser that SPICE downloads is present."""
    spec = find_spec("pycocoevalcap.spice")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return any(any(Path(folder, "lib").glob("stanford-corenlp-*.jar")) for folder in folders)


def _run(scorer: Callable[[], Any], references: dict[int, list[str]], captions: dict[int, list[str]]) -> float:
    """Score of the whole set; output of the scorer is discarded."""
    with contextlib.redirect_stdout(io.StringIO()):
        value, _ = scorer().compute_score(references, captions)
    return float(value)
