"""The photos of `README.md` with the captions of `tiny`, from `tests/expected_tiny.json`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.quotes.marks import table
from experiments.quotes.results import ROOT

COLUMNS = 5
EXPECTED = ROOT / "tests/expected_tiny.json"
NAMED, MISSED = "✓", "✗"


def photos() -> Mapping[str, Sequence[str]]:
    """Path of each photo, and the words that name its subject."""
    rows = tomllib.loads(Path(__file__).with_name("photos.toml").read_text(encoding="utf-8"))
    return {path: row["subject"] for path, row in rows.items()}


def captions() -> Mapping[str, str]:
    """Recorded caption of each photo."""
    recorded = json.loads(EXPECTED.read_text(encoding="utf-8"))
    by_name = recorded["captions"] | recorded["everyday"]
    return {path: by_name[Path(path).name] for path in photos()}


def names_subject(caption: str, subject: Sequence[str]) -> bool:
    """Whether a caption contains one of the words or phrases."""
    return any(re.search(rf"\b{re.escape(words)}\b", caption) for words in subject)


def grid() -> str:
    """Photos in rows of five, their captions below."""
    texts, subjects = captions(), photos()
    cells = [
        (
            f'<img src="{path}" alt="{Path(path).stem}" width="150">',
            f"{NAMED if names_subject(texts[path], subjects[path]) else MISSED} {texts[path]}",
        )
        for path in subjects
    ]
    lines = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    return table(*(row for line in lines for row in zip(*line, strict=True)))


def named(everyday: bool) -> str:
    """The number of captions that name the subject: of the five examples, or of all photos."""
    texts = {path: caption for path, caption in captions().items() if everyday or "everyday" not in path}
    right = [Path(path).stem for path in texts if names_subject(texts[path], photos()[path])]
    return f"{len(right)} of {len(texts)}" + ("" if everyday or not right else f" ({', '.join(right)})")
