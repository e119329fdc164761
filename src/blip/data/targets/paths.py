"""Paths of a target: that nothing is overwritten, and how its rows refer to image files."""

from __future__ import annotations

import os
from pathlib import Path

from blip_lite.errors import UsageError


def require_new(target: Path) -> None:
    """Raise UsageError if the target, or the folder of images beside a table, exists."""
    for path in (target, target.with_name(f"{target.stem}-images")) if target.suffix else (target,):
        if os.path.lexists(path):
            raise UsageError(f"{path} exists; remove it or choose another name")


def path_in_table(path: Path, target: Path) -> str:
    """Return the path as a table at `target` refers to it: relative below its folder, else absolute."""
    whole, base = Path(os.path.abspath(path)), Path(os.path.abspath(target.parent))
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else str(whole)
