"""`blip capfilt`: caption images, score texts, select pairs that match, and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from blip.cli.capfilt_select import select
from blip.cli.commands import OUTPUT, BareGroup, argument, command, option

Data = Annotated[
    tuple[str, ...], argument("DATA...", help="Tar shards, tables, folders or data sets of images with their texts.")
]
Output = Annotated[Path, option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder of scores and results.")]
Scores = Annotated[Path, argument("OUT", help="Folder that 'blip capfilt run' has written.")]


def run(*, data: Data, output: Output) -> int:
    """Caption every image and score its texts, without decisions: one Parquet file per shard."""
    from blip import capfilt

    capfilt.run(data, output)
    return 0


def everything(*, data: Data, output: Output) -> int:
    """Turn noisy image-text data into a better training set: run, select and report with their defaults."""
    return run(data=data, output=output)


capfilt = BareGroup(command(everything, "capfilt"))
capfilt.add_command(command(run, "run"))
capfilt.add_command(command(select, "select"))
