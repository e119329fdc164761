"""Section on the selection in the folder of a report: what each of its rules dropped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip.capfilt.record import KINDS
from blip.capfilt.report.markup import paragraph, percent, table
from blip.capfilt.selection import SELECTION
from blip_lite.errors import UsageError
from blip_lite.text_files import load_json

Record = Mapping[str, Any]  # content of `selection.json`


def read_selection(folder: Path) -> Record | None:
    """Return the record of the selection in a folder, None without one. Raises `UsageError` for any other file."""
    path = folder / SELECTION
    try:
        record = load_json(path)
        return {name: record[name] for name in ("command", "images", "texts")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a selection of 'blip capfilt select'; remove it") from error


def selection_section(selection: Record | None) -> str:
    """Return the rules of a selection in their order, with the texts that each dropped, if any."""
    if selection is None:
        return ""
    texts, images = selection["texts"], selection["images"]
    kinds = [kind for kind in KINDS if texts[kind]["total"]]
    rows = [_row("all", {kind: texts[kind]["total"] for kind in kinds}, images["total"])]
    if failed := sum(images["failed"].values()):
        rows.append(_row("not scored", dict.fromkeys(kinds, 0), failed))
    rules = dict.fromkeys((*texts[KINDS[0]]["dropped"], *images["dropped"]))  # of texts, then of images only
    for rule in rules:
        dropped = {kind: texts[kind]["dropped"].get(rule, 0) for kind in kinds}
        if any(dropped.values()) or images["dropped"].get(rule, 0):
            rows.append(_row(f"dropped: {rule}", dropped, images["dropped"].get(rule, 0)))
    kept = {kind: texts[kind]["kept"] for kind in kinds}
    rows.append(_row("kept", kept, images["kept"]))
    shares = (percent(kept[kind], texts[kind]["total"]) for kind in kinds)
    rows.append(("share kept", *shares, percent(images["kept"], images["total"])))
    return (
        "<h2>Selection in this folder</h2>"
        + paragraph(f"Made by: {selection['command']}")
        + table(("texts", *kinds, "images"), rows)
    )


def _row(name: str, texts: Mapping[str, int], images: int) -> tuple[str, ...]:
    return (name, *(f"{number:,}" if number else "–" for number in (*texts.values(), images)))
