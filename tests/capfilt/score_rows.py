"""Score files for tests, written without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from blip.capfilt.record import COLUMNS, arrow_schema
from blip.engine.units import Unit
from blip.io.tar_files import tar_members

Row = dict[str, Any]


def text_row(key: str, kind: str, text: str, score: float | None, **values: Any) -> Row:
    """Return a row with this score as ITM and half of it as ITC; `values` are other columns."""
    both = {} if score is None else {"itm": score, "itc": score / 2}
    return {"key": key, "shard": "photos", "image": f"photos/{key}.jpg", "kind": kind, "text": text, **both, **values}


def tar_rows(shard: Path, texts: Sequence[tuple[str, str, float | None]]) -> list[Row]:
    """Return rows for the members of a tar: the i-th texts (kind, text, score) for the i-th image."""
    members = [member for member in tar_members(shard) if member.name.endswith((".jpg", ".png"))]
    rows = []
    for member, (kind, text, score) in zip(members, texts, strict=True):
        place = {"shard": str(shard), "image": member.name, "offset": member.offset, "size": member.size}
        data = shard.read_bytes()[member.offset : member.offset + member.size]
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"{shard.name}/{member.name.partition('.')[0]}"
        rows.append(text_row(key, kind, text, score, sha256=sha256, **place))
    return rows


def write_scores(folder: Path, *files: Sequence[Row]) -> Path:
    """Write the rows of each score file of an output folder."""
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(files):
        schema = arrow_schema()
        for name in dict.fromkeys(name for row in rows for name in row if name not in COLUMNS):  # copied columns
            schema = schema.append(pyarrow.field(name, pyarrow.array([row.get(name) for row in rows]).type))
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(list(rows), schema), folder / "scores" / f"{number:05d}.parquet"
        )
    return folder


def write_units(folder: Path, *units: Unit, columns: dict[str, str] | None = None) -> None:
    """Write the list of units and the settings of a run."""
    (folder / "units.jsonl").write_text("".join(json.dumps(asdict(unit)) + "\n" for unit in units))
    (folder / "settings.json").write_text(json.dumps({"roots": [], "columns": columns or {}}))
