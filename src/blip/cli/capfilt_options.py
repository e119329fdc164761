"""Flags that the verbs of `blip capfilt` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from blip.cli import options as o
from blip.cli.commands import DEVICE, argument, option

Folders = Annotated[tuple[Path, ...], argument("OUT...", help="Folders that 'blip capfilt run' has written.")]


@dataclass(kw_only=True)
class Thresholds:
    """Flags of the scores that decide."""

    threshold: Annotated[str, option(metavar="X", help="Lowest score to keep, or share of the best, such as 30%.")] = (
        "0.5"
    )
    threshold_web: Annotated[str | None, option(metavar="X", help="Threshold of web texts.", default="--threshold")] = (
        None
    )
    threshold_synthetic: Annotated[
        str | None, option(metavar="X", help="Threshold of synthetic texts.", default="--threshold")
    ] = None
    score: Annotated[Literal["itm", "itc"], option(help="Score to select by: itm or itc.")] = "itm"


@dataclass(kw_only=True)
class DatabaseOptions:
    """Flags of the database that reads score files."""

    group = DEVICE
    memory: Annotated[str, option(metavar="SIZE", help="Memory limit of the database; the rest is kept on disk.")] = (
        "2GB"
    )
    threads: o.Threads = None
