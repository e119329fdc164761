"""What lies in an indexed folder now, and what of it is not as the index knows it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from blip.io.inputs import VIDEO_EXTENSIONS, ListOptions, walk
from blip_lite.errors import UsageError
from blip_lite.image import EXTENSIONS


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which files of a folder are indexed; the fields are the flags of the same names."""

    recursive: bool = True
    hidden: bool = False
    globs: Sequence[str] = ()
    video: bool = False
    frames: int = 8  # of each video

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def listing(self) -> ListOptions:
        exts = (*EXTENSIONS, *VIDEO_EXTENSIONS) if self.video else ()
        return ListOptions(recursive=self.recursive, hidden=self.hidden, globs=self.globs, exts=exts)


@dataclass(frozen=True)
class Root:
    """A folder that is kept up to date."""

    id: int
    path: bytes
    rules: Rules

    @property
    def is_there(self) -> bool:
        return os.path.isdir(self.path)


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it lies on the disk, before it is opened."""

    path: bytes
    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Known:
    """A file as the index has it."""

    root: int
    size: int
    mtime: int
    hash: bytes
    error: str | None

    def is_same(self, found: Found) -> bool:
        return (self.size, self.mtime) == (found.size, found.mtime)


def root_of(folder: str | os.PathLike[str]) -> bytes:
    """The bytes by which an index knows a folder. Raises UsageError where it is none."""
    if not os.path.isdir(folder):
        problem = "is a file; name its folder" if os.path.exists(folder) else "no such folder"
        raise UsageError(f"{os.fspath(folder)}: {problem}")
    return absolute(folder)


def absolute(path: str | os.PathLike[str]) -> bytes:
    return os.fsencode(os.path.abspath(os.path.expanduser(path)))


def below(folder: bytes) -> tuple[bytes, bytes]:
    """Paths inside a folder are at least the first and less than the second."""
    prefix = folder.rstrip(b"/") + b"/"
    return prefix, prefix[:-1] + b"0"  # the byte after the slash


def files(root: Root) -> Iterator[Found]:
    """The wanted files of a folder, in byte order. What cannot be asked about is left out."""
    for relative in walk(os.fsdecode(root.path), root.rules.listing()):
        path = os.path.join(root.path, os.fsencode(relative))
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield Found(path, status.st_size, status.st_mtime_ns)


def is_gone(path: bytes) -> bool:
    """Whether a file that was not listed is no longer wanted: deleted, or left out by the rules.

    A folder that may not be listed, or a disk that does not answer, says nothing about its files.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return os.access(os.path.dirname(path), os.R_OK | os.X_OK)


def shown(path: bytes, at: int = -1) -> str:
    """A path as users see it: below the working folder from there on, and `v.mp4#t=12.480` for a frame."""
    name = os.fsdecode(path)
    here = os.getcwd().rstrip(os.sep) + os.sep
    if name.startswith(here):
        name = name[len(here) :]
        name = f"./{name}" if name.startswith("-") else name
    return name if at < 0 else f"{name}#t={at / 1000:.3f}"


def real(path: Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))
