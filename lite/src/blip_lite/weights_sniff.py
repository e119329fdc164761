"""Reasons why a file does not hold weights, from its first bytes and its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from blip_lite.errors import CheckpointError
from blip_lite.text_files import parse_json

Format = Literal["safetensors", "zip", "pickle"]
HEADER_LIMIT = 100_000_000  # bytes of a safetensors header, the limit of the library
MAGIC = {  # other files that are found under the names of weights
    b"\x89HDF": "an HDF5 file (Keras); weights must be safetensors or PyTorch files",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"GGUF": "a GGUF file; weights must be safetensors or PyTorch files",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy array; weights must be safetensors or PyTorch files",
}


def weights_format(path: Path) -> Format:
    """Return the format of a weights file by its content, whatever its name.

    Raises CheckpointError if it is a git-lfs pointer, a web page, another known format, empty or truncated.
    """
    with path.open("rb") as file:
        head = file.read(512)
    size = path.stat().st_size
    if not size:
        raise CheckpointError(f"{path}: the file is empty")
    _reject_text(path, head)
    for magic, description in MAGIC.items():
        if head.startswith(magic):
            raise CheckpointError(f"{path}: not weights but {description}")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if not head.strip(b"\0"):
        raise CheckpointError(f"{path}: damaged: it starts with zeros, so the download or copy did not finish")
    if len(head) > 8 and head[8:9] == b"{":
        _check_safetensors_size(path, size)
        return "safetensors"
    raise CheckpointError(f"{path}: damaged or not a weights file; must be safetensors or a PyTorch file")


def _reject_text(path: Path, head: bytes) -> None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: a git-lfs pointer, not the weights; run 'git lfs pull' in its folder, or download the file itself"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<error")):
        raise CheckpointError(f"{path}: a web page or error message, not weights; download the file again")
    if text.startswith((b"{", b"[")):
        raise CheckpointError(f"{path}: JSON text, not weights; it may be the error message of a download")


def check_values(path: Path) -> None:
    """Check that a safetensors file is complete and that its float values are finite. Raises CheckpointError."""
    if weights_format(path) != "safetensors":
        raise CheckpointError(f"{path}: not a safetensors file, which the graphs read; export the model again")
    length, tensors = _read_header(path, path.stat().st_size)
    for name, entry in tensors.items():
        dtype = {"F16": np.float16, "F32": np.float32, "F64": np.float64}.get(entry["dtype"])
        start, end = entry["data_offsets"]
        if dtype is None or start == end:
            continue
        values = np.memmap(path, dtype, "r", 8 + length + start, ((end - start) // np.dtype(dtype).itemsize,))
        with np.errstate(all="ignore"):
            if np.isfinite(values.sum(dtype=np.float32)):
                continue
        if not np.isfinite(values).all():  # finite values can have an infinite sum
            raise CheckpointError(f"{path}: {name} has values that are NaN or infinite")


def _check_safetensors_size(path: Path, size: int) -> None:
    """Raise CheckpointError if a safetensors file is shorter than its header states."""
    length, tensors = _read_header(path, size)
    expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if size < expected:
        raise CheckpointError(f"{path}: truncated: {size:,} bytes, must be {expected:,}; download or copy it again")


def _read_header(path: Path, size: int) -> tuple[int, dict[str, Any]]:
    """Length of the header of a safetensors file, and its tensors: name -> dtype and data_offsets."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_LIMIT:
            raise CheckpointError(f"{path}: damaged or not a weights file; must be safetensors or a PyTorch file")
        if 8 + length > size:
            raise CheckpointError(f"{path}: truncated: {size:,} bytes, its header alone needs {8 + length:,}")
        header = file.read(length)
    try:
        entries = parse_json(header)
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        for entry in tensors.values():
            start, end = entry["data_offsets"]
            if not (isinstance(entry["dtype"], str) and 0 <= start <= end):
                raise ValueError("offsets")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: its header is not that of a safetensors file") from error
    return length, tensors
