"""SHA-256 sums of a model folder in the file SHA256SUMS, in the format of sha256sum."""

from __future__ import annotations

from pathlib import Path

from blip.io.atomic import write_text
from blip.io.fetch import sha256_of
from blip_lite.errors import CheckpointError, ChecksumMismatch
from blip_lite.text_files import read_text

SUMS = "SHA256SUMS"


def write(folder: Path) -> None:
    """Record the sums of the files that a model computes with: not of its card and licence."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".onnx", ".safetensors", ".txt"))
    write_text(folder / SUMS, "".join(f"{sha256_of(path)}  {path.name}\n" for path in files))


def verify(folder: Path) -> dict[str, str]:
    """Return the recorded sums by file name after comparing all files. Raises CheckpointError, ChecksumMismatch."""
    sums = {}
    for line in read_text(folder / SUMS).splitlines():
        digest, _, name = line.partition("  ")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing; reinstall the package")
        if sha256_of(folder / name) != digest:
            raise ChecksumMismatch(f"{folder / name}: not the file that {SUMS} records; reinstall the package")
        sums[name] = digest
    return sums
