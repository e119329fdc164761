"""The record `capfilt/1`: columns of a score file, one row per image and text.

An image that cannot be read, and a readable one without texts, is one row whose `kind` is null.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from blip_lite.errors import MissingExtra, UsageError

SCHEMA = "capfilt/1"  # in the metadata of a file, under the key `schema`
HUMAN, WEB, SYNTHETIC = KINDS = ("human", "web", "synthetic")
SETTINGS, SCORES = "settings.json", "scores"  # in an output folder: what made it, and the folder of the score files

# Arrow types by column. Copied columns of the user follow.
COLUMNS = {
    "key": "string",  # unique in its shard
    "shard": "string",  # tar, table or folder, as named by the user
    "image": "string",  # tar member, path or URL; null if embedded in a table
    "offset": "int64",  # of a tar member's data, else null
    "size": "int64",  # of a tar member's data, else null
    "row": "int64",  # of a table, from 1; else null
    "url": "string",
    "sha256": "string",  # of the image's bytes, hexadecimal
    "phash": "uint64",  # `blip.io.perceptual_hash`
    "width": "int32",
    "height": "int32",
    "kind": "string",  # one of KINDS
    "index": "int32",  # of the text among those of its kind, from 0
    "text": "string",
    "itm": "float32",  # match probability; null for human texts
    "itc": "float32",  # cosine; null for human texts
    "logprob": "float32",  # synthetic texts: sum of the log-probabilities of the tokens
    "tokens": "int32",  # synthetic texts: number of tokens, the end included
    "error": "string",  # reason why the image or row cannot be used
}


def arrow_schema() -> Any:  # Any: pyarrow has no types
    """Return the Arrow schema of a score file without copied columns."""
    arrow = require_pyarrow()
    return arrow.schema([(name, kind) for name, kind in COLUMNS.items()], metadata={"schema": SCHEMA})


def score_files(folder: Path) -> list[Path]:
    """Return the score files of an output folder in the order of their names. Raises `UsageError` without any."""
    files = sorted((folder / SCORES).glob("*.parquet"))
    if not files:
        raise UsageError(f"{folder}: no score files in {SCORES}/; 'blip capfilt run' writes them")
    return files


def require_pyarrow() -> Any:  # Any: pyarrow has no types
    """Return the module, or raise `MissingExtra`."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise MissingExtra('capfilt needs an extra: pip install "blip-vlm[capfilt]"') from error
