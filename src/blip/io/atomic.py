"""Files and folders that appear complete or not at all: written beside the target, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from blip_lite.errors import EnvironmentProblem, UsageError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path` (created if missing), which becomes `path` on success.

    The temporary file exists and is empty; its name keeps the suffix of `path`, for writers that choose their
    format by it. On failure it is removed and `path` is unchanged. `durable` syncs the data to disk before the
    rename. A full disk or a path that cannot be written raises `EnvironmentProblem`.
    """
    target = Path(path)
    if target.is_symlink():  # a rename would replace the link, not the file that it names
        target = Path(os.path.realpath(target))
    with writing(target):
        temporary = _reserve(target)
        mode = temporary.stat().st_mode
    try:
        with disk_full(target):
            yield temporary
        with writing(target):
            temporary.chmod(mode)  # some writers replace the file by one that only its owner can read
            if durable:
                _sync(temporary)
            os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):  # absent after the rename
            temporary.unlink()


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` (its parent is created); it is removed unless the caller renames it."""
    folder = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    with writing(target):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(output: Path, mark: str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `output` on success and is removed otherwise.

    Raises UsageError if `output` is not empty; with `overwrite` only if it does not contain a file `mark`.
    """
    output = Path(os.path.realpath(output))  # the target of a link is replaced, not the link
    if output == Path(os.path.realpath(".")):
        raise UsageError(f"{output}: is the working folder, which cannot be replaced; name another")
    full = output.is_dir() and any(output.iterdir())
    if output.is_file() or (full and not overwrite):
        raise UsageError(f"{output} exists; choose another name or give --overwrite")
    if full and not (output / mark).is_file():
        raise UsageError(f"{output}: has no {mark}, so it holds other files; --overwrite does not replace them")
    old = output.with_name(f".{output.name}.{secrets.token_hex(4)}.old")
    try:
        with temporary_folder(output) as part:
            yield part
            with writing(output):
                if output.is_dir():
                    output.rename(old)
                part.rename(output)
    finally:
        if not output.exists() and old.exists():  # interrupted between the two renames
            old.rename(output)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace `path` by `data` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace `path` by `text` in one step; UTF-8, newlines as given."""
    write_bytes(path, text.encode("utf-8", "replace"))


@contextlib.contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every `OSError` of writing `target` into `EnvironmentProblem`; a closed pipe passes."""
    try:
        with disk_full(target):
            yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentProblem(f"{target}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def disk_full(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full disk into `EnvironmentProblem`; every other error passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise EnvironmentProblem(f"{target}: no space left on the disk; free some or write elsewhere") from error


def _reserve(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    stem = os.fsencode(target.name)[:100].decode("utf-8", "ignore")  # a name has at most 255 bytes
    temporary = target.with_name(f".{stem}.{secrets.token_hex(4)}.part{target.suffix[:20]}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # less the umask
    if target.exists():
        os.chmod(temporary, target.stat().st_mode & 0o7777)
    return temporary


def _sync(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
