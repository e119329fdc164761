"""Tables of URLs: their images are downloaded into tar shards by img2dataset before they are captioned."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blip.capfilt.items import Reading
from blip.data import img2dataset
from blip.io import readers, table_reader
from blip.io.atomic import write_text
from blip.io.fetch import is_offline, offline_reason
from blip.io.image_cells import FAILED
from blip.io.lock import exclusive
from blip.io.paths import is_url
from blip_lite.errors import OfflineError
from blip_lite.text_files import load_json

FETCHED = "fetched"  # folder of the shards in an output folder
_DONE, _FAILED = "done.json", "failed.jsonl"


def fetch_tables(
    names: Sequence[str], reading: Reading, folder: Path, runner: str, *, offline: bool | None = None
) -> list[str]:
    """Return the names with each table of URLs replaced by its shards, and by a table of the failed downloads.

    What has been downloaded before is not requested again. Raises `OfflineError` and `EnvironmentProblem`.
    """
    fetched: list[str] = []
    for number, name in enumerate(names):
        column = _url_column(name, reading)
        if column is None:
            fetched.append(name)
        else:
            target = folder / f"{number:05}-{Path(name).stem}"
            with exclusive(target):
                fetched += _fetch(name, column, reading, target, runner, offline)
    return fetched


def _url_column(name: str, reading: Reading) -> str | None:
    """Return the image column of a table whose first image is a URL."""
    if not readers.is_table(name):
        return None
    row = next((row for row in table_reader.rows(Path(name), None) if row.problem is None), None)
    column = None if row is None else reading.columns.image_column(row.values)
    value = None if row is None or column is None else row.values[column]
    return column if isinstance(value, str) and is_url(value) else None


def _fetch(name: str, column: str, reading: Reading, folder: Path, runner: str, offline: bool | None) -> Iterator[str]:
    source = {"source": name, "size": Path(name).stat().st_size}
    if not ((folder / _DONE).is_file() and load_json(folder / _DONE) == source):
        if is_offline(offline):
            raise OfflineError(f"{name}: downloads are needed but {offline_reason()}")
        columns = reading.columns
        named = dict.fromkeys((columns.text, columns.key, reading.human_column, *reading.copy_columns))
        keep = [name for name in named if name is not None and name not in ("url", "caption", column)]
        urls = img2dataset.write_list([name], folder, column, columns.text, keep)
        img2dataset.run(img2dataset.command(urls, runner=runner))
        img2dataset.read_shards(folder)  # raises if there are none
        rows = itertools.chain(_without_url(Path(name), column), _failures(folder, column))
        failed = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        write_text(folder / _FAILED, "".join(failed))
        write_text(folder / _DONE, json.dumps(source))
    yield from map(str, sorted(folder.glob("[0-9]*.tar")))
    if (folder / _FAILED).stat().st_size:
        yield str(folder / _FAILED)


def _without_url(table: Path, column: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table that have no URL in `column`, as img2dataset has rows that it cannot download."""
    for row in table_reader.rows(table, None):
        value = row.values.get(column)
        if not (isinstance(value, str) and is_url(value)):
            values = {name: value for name, value in row.values.items() if name != column}
            reason = row.problem or f"no URL in column '{column}'"
            yield {"key": os.path.basename(row.where), **values, "status": FAILED[0], "error_message": reason}


def _failures(folder: Path, column: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of img2dataset's metadata whose images it could not download, with the URL in `column`."""
    for path in sorted(folder.glob("[0-9]*.parquet")):
        for row in table_reader.rows(path, None):
            if row.values.get("status", "success") != "success":
                yield {**row.values, column: row.values.get("url")}
