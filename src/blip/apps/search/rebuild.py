"""Rebuild of an index: a new one is built in a folder inside the present one, and takes its place once it is complete.

Until then the present index is unchanged and can be searched. An interrupted rebuild resumes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from blip.apps.search import database, vectors
from blip.apps.search.database import FILE, Damaged, Database, WrongVersion
from blip.apps.search.scan import Rules, display_path
from blip.io.disk import writing
from blip_lite.errors import BlipError, UsageError

if TYPE_CHECKING:
    from blip.apps.search.index import Index

FOLDER = ".rebuild"


def choose_roots(folder: Path, folders: Sequence[tuple[bytes, Rules]]) -> list[tuple[bytes, Rules]]:
    """Return the given folders, or those of the index. Raises UsageError if they are unknown or missing."""
    if folders:
        return list(folders)
    try:
        with closing(database.connect(folder)) as db, database.translate_errors(folder):
            roots = db.roots()
    except (Damaged, WrongVersion) as error:
        raise UsageError(f"{error}; its folders cannot be read") from error
    if not roots:
        raise UsageError("no folder is indexed yet; name one: blip index DIR")
    missing = [display_path(root.path) for root in roots if not root.exists]
    if missing:
        raise UsageError(f"{missing[0]}: folder is missing; restore it, or name the folders: blip index --rebuild DIR")
    return [(root.path, root.rules) for root in roots]


def open_staging(index: Index, roots: Sequence[tuple[bytes, Rules]]) -> Index:
    """Return the index to fill: that of an interrupted rebuild if it has the same model and folders, else a new one."""
    folder = index.folder / FOLDER
    staging = type(index).open(folder, index.loaded_model)
    try:
        resumes = staging.exists and {root.path for root in staging.roots()} <= {path for path, _ in roots}
        if resumes:
            staging.check()
            staging.model()
    except BlipError:
        resumes = False
    if not resumes:
        staging.close()
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
    return staging


def replace(folder: Path) -> None:
    """Put the finished index of a rebuild in place of that of `folder`. For the only writer."""
    staging = folder / FOLDER
    with closing(database.connect(staging, create=True)) as new, database.translate_errors(staging):
        target = _open_intact(folder)
        generation = _move_vectors(new, folder)
        if target is None:
            _replace_files(new, folder)
        else:
            with closing(target), database.translate_errors(folder):
                sidecars = target.execute("SELECT path, image, hash FROM sidecars").fetchall()
                with new.transaction():
                    new.executemany("INSERT OR REPLACE INTO sidecars VALUES (?, ?, ?)", sidecars)
                new.backup(target)  # one transaction; readers keep the state that they see
    vectors.remove_others(folder, generation)
    shutil.rmtree(staging, ignore_errors=True)


def _open_intact(folder: Path) -> Database | None:
    """Open the database that is to be replaced; None if it is missing or cannot be used."""
    if not (folder / FILE).is_file():
        return None
    try:
        db = database.connect(folder, create=True)
    except (Damaged, WrongVersion):
        return None
    try:
        db.check()
    except Damaged:
        db.close()
        return None
    return db


def _move_vectors(new: Database, folder: Path) -> int:
    """Move the vector file under a name that the present index does not use; return its generation."""
    before = new.get_meta("generation") or 0
    generation = 1 + max([before, *vectors.generations(folder)])
    path = vectors.path_of(new.folder, before)
    with writing(folder):
        if new.get_meta("crc") is not None:
            os.replace(path, vectors.path_of(folder, generation))
    new.set_meta(generation=generation)
    return generation


def _replace_files(new: Database, folder: Path) -> None:
    """Replace the file of a database that SQLite cannot write to."""
    new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    new.close()
    with writing(folder):
        for suffix in ("-wal", "-shm"):  # of the old database; SQLite would apply them to the new one
            (folder / f"{FILE}{suffix}").unlink(missing_ok=True)
        os.replace(new.folder / FILE, folder / FILE)
