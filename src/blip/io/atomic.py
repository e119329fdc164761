"""Files and folders that appear complete or not at all: written in a folder beside the target, then renamed.

These folders, `.NAME.0123abcd.part`, are locked while they are in use. A killed process leaves unlocked ones, which
the next run that writes beside them removes.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blip.io.disk import disk_full, is_device, writing
from blip.io.lock import exclusive, lock_folder, remove_abandoned
from blip_lite.errors import EnvironmentProblem, UsageError

_searched: set[Path] = set()  # folders in which this process has removed what killed ones left


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield the path of an empty file of the same name, which becomes `path` on success; its folder is created.

    On failure it is removed and `path` is unchanged. `durable` syncs the data to disk before the rename. A full disk
    or a path that cannot be written raises `EnvironmentProblem`. A device or pipe is written at the end.
    """
    target = Path(path)
    if target.is_symlink():  # a rename would replace the link, not the file that it names
        target = Path(os.path.realpath(target))
    if is_device(target):
        with _copied_to(target) as temporary:
            yield temporary
        return
    with writing(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target) as folder:
        temporary = folder / target.name
        with writing(target):
            temporary.touch()
            mode = (target if target.exists() else temporary).stat().st_mode & 0o7777
        yield temporary
        with writing(target):
            temporary.chmod(mode)  # some writers replace the file by one that only its owner can read
            if durable:
                _sync(temporary)
            os.replace(temporary, target)


@contextlib.contextmanager
def _copied_to(device: Path) -> Iterator[Path]:
    """Yield the path of a file whose content is written to a device on success."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, device.name)
        temporary.touch()
        with disk_full(tempfile.gettempdir()):
            yield temporary
        with open(temporary, "rb") as source, writing(device), open(device, "wb") as target:
            shutil.copyfileobj(source, target)


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` (its parent is created); it is removed unless the caller renames it."""
    stem = os.fsencode(target.name)[:100].decode("utf-8", "ignore")  # a name has at most 255 bytes
    if target.parent not in _searched:
        _searched.add(target.parent)
        remove_abandoned(target.parent)
    with writing(target):
        while True:
            folder = target.with_name(f".{stem}.{secrets.token_hex(4)}.part")
            folder.mkdir(parents=True)
            lock = lock_folder(folder)
            if lock is not None:
                break  # else another process has just removed it
    try:
        with disk_full(target):
            yield folder
    except EnvironmentProblem as error:  # of a file within
        raise type(error)(str(error).replace(str(folder), str(target))) from error
    except OSError as error:
        if not str(error.filename).startswith(str(folder)):
            raise
        raise EnvironmentProblem(f"{target}: cannot be written ({error.strerror})") from error
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # faster than rmtree, which closes the folder after its removal
            folder.rmdir()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(output: Path, mark: str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `output` on success and is removed otherwise.

    Raises UsageError if `output` is not empty; with `overwrite` only if it does not contain a file `mark`.
    """
    output = Path(os.path.realpath(output))  # the target of a link is replaced, not the link
    if output == Path(os.path.realpath(".")):
        raise UsageError(f"{output}: is the working folder, which cannot be replaced; name another")
    with exclusive(output):
        _restore(output)
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
            _restore(output)


def _restore(output: Path) -> None:
    """Give the replaced folder its name back if the run ended between the two renames, else remove it."""
    for old in output.parent.glob(f".{glob.escape(output.name)}.????????.old"):
        if not output.exists():
            old.rename(output)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace `path` by `data` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace `path` by `text` in one step; UTF-8, newlines as given."""
    write_bytes(path, text.encode("utf-8", "replace"))


def _sync(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
