"""Flags of verbs that can write one file per shard: where models run, and a folder as output."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from blip.cli import options as o
from blip.cli.commands import OUTPUT, option
from blip_lite.errors import UsageError


@dataclass(kw_only=True)
class EngineFlags:
    """Flags of verbs that write one file per shard."""

    group = "Shards"
    engine: Annotated[Literal["local", "ray"], option(help="local (this process) or ray (a Ray cluster).")] = "local"
    actors: Annotated[
        int | None, option(min=1, help="Processes per machine, with --engine ray.", default="one per GPU, else 1")
    ] = None
    ray_address: Annotated[
        str | None,
        option(metavar="ADDRESS", help="A running Ray cluster.", default="RAY_ADDRESS, else one on this machine"),
    ] = None
    rows_per_shard: Annotated[int, option(min=1, help="Rows of a table, or images of a folder, per shard.")] = 10_000

    def check_engine(self) -> None:
        """Raise `UsageError` for flags that the engine does not have."""
        if self.engine == "local" and (self.actors is not None or self.ray_address is not None):
            raise UsageError("--actors and --ray-address; must be used with --engine ray")


@dataclass(kw_only=True)
class ShardRun(o.Run, EngineFlags):
    """Flags of a verb that writes its records to a file, or to a folder with a file per shard."""

    group = OUTPUT
    output: Annotated[
        str | None,
        option(
            "-o",
            "--output",
            metavar="PATH",
            help="File (its ending is the format) or FOLDER/ (a file per shard).",
            complete=tuple,
        ),
    ] = None

    @property
    def output_folder(self) -> Path | None:
        """The folder to write; None for a file and for standard output."""
        if self.output is not None and (self.output.endswith(("/", os.sep)) or os.path.isdir(self.output)):
            return Path(self.output)
        if self.engine != "local":
            raise UsageError(f"--engine {self.engine}; must be used with a folder as output, -o FOLDER/")
        return None
