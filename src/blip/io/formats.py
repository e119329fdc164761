"""Output files: the format that each ending stands for, one table for all commands."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from blip.io.disk import is_device
from blip_lite.errors import UsageError

Format = Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "coco", "npz", "safetensors"]
RECORDS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
VECTORS: dict[str, Format] = {".npz": "npz", ".safetensors": "safetensors"}
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
WEIGHTS = (".pth", ".safetensors")
_SCHEMA_OF = {"coco": "caption", "npz": "embedding", "safetensors": "embedding"}
# besides those above: files that other programs write and that are not names of folders
_OTHERS = (".pt", ".bin", ".ckpt", ".onnx", ".tar", ".zip", ".gz", ".html", ".xlsx", ".npy", ".h5", ".webp", ".yaml")
_FILES = frozenset((*RECORDS, *VECTORS, *PICTURES, *WEIGHTS, *_OTHERS))


def ending(path: Path) -> str:
    """Return the ending of a file name in lower case, "" without one."""
    return path.suffix.lower()


def require_ending(path: Path, allowed: Iterable[str], flag: str = "-o") -> None:
    """Raise `UsageError` unless the name of a file to write has one of these endings."""
    if ending(path) not in allowed and not is_device(path):
        problem = f"unknown ending '{ending(path)}'" if ending(path) else "no ending"
        endings = tuple(allowed)
        raise UsageError(f"{flag} {path}: {problem}; must be {'one of ' * (len(endings) > 1)}{', '.join(endings)}")


def require_folder(path: Path, flag: str = "-o") -> None:
    """Raise `UsageError` if the name of a folder to write is that of a file, or `-`."""
    if str(path) == "-" or (ending(path) in _FILES and not path.is_dir()) or (path.exists() and not path.is_dir()):
        raise UsageError(f"{flag} {path}; must be a folder")


def record_format(path: Path | None, format: str | None = None, schema: str = "") -> Format:
    """Return the format of records: the given one, else that of the file's ending, text on standard output.

    Raises `UsageError` for an unknown ending without a format, an ending of another format, and a format that cannot
    hold the records of `schema`.
    """
    name = schema.removesuffix("/1")
    if format is not None:
        if format not in get_args(Format):
            raise UsageError(f"--format {format}; must be one of {', '.join(get_args(Format))}")
        if name not in ("", _SCHEMA_OF.get(format, name)):
            raise UsageError(f"--format {format}; must be used with {_SCHEMA_OF[format]} records, not {name} records")
    if path is None or is_device(path):
        return format or "text"  # type: ignore[return-value]
    by_ending = dict(RECORDS)
    if name == "embedding":
        by_ending |= VECTORS
        del by_ending[".txt"]  # the text form shows no vectors
    if format is None:
        require_ending(path, by_ending)
        return by_ending[ending(path)]
    expected = (RECORDS | VECTORS).get(ending(path), format)
    if expected != format and (expected, format) != ("json", "coco"):
        raise UsageError(f"--format {format} with -o {path}; must be a file with the ending of that format")
    return format  # type: ignore[return-value]
