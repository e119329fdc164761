"""Conversion of data sources: to a folder with text files, a table, or tar shards, row by row.

Rows keep their order, key, texts and other columns; images are copied byte for byte or referenced. Targets appear
complete or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blip.data.targets.folder import write_folder
from blip.data.targets.parquet import write_parquet
from blip.data.targets.rows import OnBad, Source
from blip.data.targets.shards import write_shards
from blip.data.targets.table import write_table
from blip.io.columns import Columns
from blip.io.lock import exclusive
from blip_lite.errors import UsageError

SHARD_SIZE = 1000
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """Result: number of rows, files or folder written, columns that a folder cannot hold."""

    rows: int
    skipped: int
    paths: tuple[Path, ...]
    dropped: tuple[str, ...] = ()


def convert(
    names: Sequence[str],
    columns: Columns,
    target: Path,
    *,
    shard_size: int = SHARD_SIZE,
    on_bad: OnBad | None = None,
) -> Converted:
    """Write a source as files in the form of `target`: .tar (`NAME-000000.tar` and so on), a table, a folder.

    A table refers to images by path, relative if they are below its folder; images of shards are written to a folder
    NAME-images beside it, in Parquet into the table. A folder holds images and texts only, and rows of one image are
    merged. Other columns named like an image or text column become `other_NAME`. A bad row raises `BadRecord`, or is
    left out and passed to `on_bad`. Existing files are never overwritten, and a failure leaves no file.
    """
    source = Source(names, columns, on_bad)
    suffix = target.suffix.lower()
    if str(target) == "-" or suffix not in ("", ".tar", *TABLES):
        raise UsageError(f"{target}: must be a folder, .tar or one of {' '.join(TABLES)}")
    paths: tuple[Path, ...] = (target,)
    dropped: tuple[str, ...] = ()
    with exclusive(target):
        if suffix == ".tar":
            paths = write_shards(source, target, shard_size)
        elif suffix == ".parquet":
            write_parquet(source, target)
        elif suffix:
            paths = write_table(source, target, suffix)
        else:
            dropped = write_folder(source, target)
    return Converted(rows=source.rows, skipped=source.skipped, paths=paths, dropped=dropped)
