"""Conversion of stored records, one JSON object per line, to the other formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from blip.io import table_writer, vectors
from blip.io.formats import VECTORS, Format
from blip.io.record_text import TextLines
from blip.io.records import Record, image_id, to_json
from blip_lite.text_files import parse_json


@dataclass(frozen=True)
class Layout:
    """Format of an output, name of its records, and columns of its text form."""

    format: Format
    name: str
    columns: tuple[str, ...]
    single: bool = False
    all_columns: bool = False

    def lines(self, records: Iterable[Record]) -> bytes:
        """Return records as stored lines; vectors keep all their bits if the format does."""
        if self.format in VECTORS.values():
            records = map(vectors.to_text, records)
        return "".join(to_json(record) + "\n" for record in records).encode("utf-8", "replace")


class Rows(Iterable[dict[str, Any]]):
    """The stored records; may be iterated repeatedly."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        return map(parse_json, iter(self._file.readline, b""))


def convert(file: IO[bytes], path: Path, layout: Layout) -> None:
    """Write stored records to `path` in the format of a layout."""
    rows = Rows(file)
    if layout.format == "parquet":
        table_writer.write_parquet(path, rows, layout.name, all_columns=layout.all_columns)
    elif layout.format in ("csv", "tsv"):
        table_writer.write_table(path, rows, layout.name, "\t" if layout.format == "tsv" else ",")
    elif layout.format in VECTORS.values():
        vectors.write(path, rows, layout.format)
    elif layout.format == "coco":
        captions = ({"image_id": image_id(r["key"]), "caption": r["text"]} for r in rows if "error" not in r)
        _write_list(path, captions)
    elif layout.format == "json":
        _write_list(path, rows)
    else:
        text = TextLines(layout.columns, single=layout.single)
        with open(path, "wb") as target:
            target.writelines(text.format([row]).encode("utf-8", "replace") for row in rows)


def _write_list(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON list, one item per line."""
    with open(path, "wb") as target:
        for i, row in enumerate(rows):
            target.write((",\n" if i else "[\n").encode() + to_json(row).encode("utf-8", "replace"))
        target.write(b"\n]\n" if target.tell() else b"[]\n")
