"""Opening Parquet files, and the Arrow files in folders that Hugging Face `datasets` saves."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from blip_lite.errors import MissingExtra, UsageError

EXTENSIONS = (".parquet", ".arrow")


def _require_arrow(path: Path) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        kind = "Arrow" if path.suffix.lower() == ".arrow" else "Parquet"
        raise MissingExtra(f'{path} is {kind}; reading it needs an extra: pip install "blip-vlm[data]"') from error


def parquet(path: Path) -> Any:  # Any: pyarrow has no types
    """Return the open Parquet file. Raises `UsageError`, `MissingExtra` and `OSError`."""
    _require_arrow(path)
    try:
        return importlib.import_module("pyarrow.parquet").ParquetFile(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except errors() as error:
        raise UsageError(f"{path}: not a readable Parquet file ({one_line(error)})") from error


def arrow(path: Path) -> Any:  # Any: pyarrow has no types
    """Return a memory-mapped table: the stream that `datasets` writes, or an Arrow file."""
    arrow = _require_arrow(path)
    ipc = importlib.import_module("pyarrow.ipc")
    try:
        with open(path, "rb") as file:
            is_file = file.read(6) == b"ARROW1"
        source = arrow.memory_map(str(path))
        return ipc.open_file(source).read_all() if is_file else ipc.open_stream(source).read_all()
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except errors() as error:
        raise UsageError(f"{path}: not a readable Arrow file ({one_line(error)})") from error


def group_bytes(file: Any, group: int, names: list[str]) -> int:  # Any: pyarrow has no types
    """Return the size of columns of a row group when it is read."""
    metadata = file.metadata.row_group(group)
    chunks = (metadata.column(i) for i in range(metadata.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in names)


def is_text(kind: Any) -> bool:  # Any: pyarrow has no types
    """Whether a column type holds text."""
    types = importlib.import_module("pyarrow.types")
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that damaged files raise."""
    return (importlib.import_module("pyarrow").ArrowException, OSError, ValueError, OverflowError)


def one_line(error: Exception) -> str:
    """Return the message of an error on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
