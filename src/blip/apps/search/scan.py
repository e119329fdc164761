"""Indexed folders, the files found in them, and paths as the index stores and prints them."""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from blip.io.paths import VIDEO_EXTENSIONS, ListOptions, walk
from blip_lite.errors import UsageError
from blip_lite.image import EXTENSIONS
from blip_lite.text_files import parse_json


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Selection of the files of a folder; the fields are the flags of the same names."""

    recursive: bool = True
    hidden: bool = False
    globs: Sequence[str] = ()
    video: bool = False
    frames: int = 8  # per video

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**parse_json(text))

    def list_options(self) -> ListOptions:
        exts = (*EXTENSIONS, *VIDEO_EXTENSIONS) if self.video else ()
        return ListOptions(recursive=self.recursive, hidden=self.hidden, globs=self.globs, exts=exts)


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """A file on disk, before it is opened."""

    path: bytes
    size: int
    mtime: int  # nanoseconds


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file as recorded in the index."""

    root: int
    size: int
    mtime: int
    hash: bytes
    error: str | None

    def matches(self, file: ScannedFile) -> bool:
        """Return whether size and modification time are unchanged."""
        return (self.size, self.mtime) == (file.size, file.mtime)


@dataclass(frozen=True)
class Root:
    """A folder that the index is kept up to date with."""

    id: int
    path: bytes
    rules: Rules

    @property
    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def scan(self) -> Iterator[ScannedFile]:
        """Yield the files that the rules select, in byte order; warn of broken links and links to pipes or devices."""
        for relative in walk(os.fsdecode(self.path), self.rules.list_options()):
            path = os.path.join(self.path, os.fsencode(relative))
            try:
                status = os.stat(path)
            except OSError as error:
                warnings.warn(f"{display_path(path)}: cannot be read ({error.strerror or error})", stacklevel=2)
                continue
            if not stat.S_ISREG(status.st_mode):
                warnings.warn(f"{display_path(path)}: not a file (a pipe, socket or device)", stacklevel=2)
            else:
                yield ScannedFile(path, status.st_size, status.st_mtime_ns)


def root_path(folder: str | os.PathLike[str]) -> bytes:
    """Return the path under which the index stores a folder. Raises UsageError if it is not a folder."""
    if not os.path.isdir(folder):
        problem = "is a file; name its folder" if os.path.exists(folder) else "no such folder"
        raise UsageError(f"{os.fspath(folder)}: {problem}")
    return absolute(folder)


def absolute(path: str | os.PathLike[str]) -> bytes:
    return os.fsencode(os.path.abspath(os.path.expanduser(path)))


def prefix_range(folder: bytes | None) -> tuple[bytes, bytes]:
    """Bounds (low <= path < high) of the paths inside a folder; None is any folder."""
    if folder is None:
        return b"", b"\xff"
    prefix = folder.rstrip(b"/") + b"/"
    return prefix, prefix[:-1] + b"0"  # the byte after the slash


def is_removed(path: bytes) -> bool:
    """Return whether a file that the scan did not list was deleted or excluded by the rules.

    An unreadable folder or an unavailable disk does not count as deletion.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return os.access(os.path.dirname(path), os.R_OK | os.X_OK)


def display_path(path: bytes, at: int = -1) -> str:
    """Path for users: relative if inside the working folder, and `v.mp4#t=12.480` for a frame."""
    name = os.fsdecode(path)
    here = os.getcwd().rstrip(os.sep) + os.sep
    if name.startswith(here):
        name = name[len(here) :]
        name = f"./{name}" if name.startswith("-") else name
    return name if at < 0 else f"{name}#t={at / 1000:.3f}"
