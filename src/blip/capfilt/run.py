"""Caption and score the images of a data set: one score file per shard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

Spec = str | os.PathLike[str]


def run(data: Spec | Sequence[Spec], output: Spec) -> Path:
    """Write a score file for each shard of `data` to `output/scores`; shards that have one are skipped."""
    raise NotImplementedError
