"""Checkpoints of a run: `checkpoints/step_N/`, each a model folder that `blip.load` reads and the run's own state.

A folder is written under another name, synced, then renamed: what is there is whole. `last` and `best` are links.
The state is the weights, the optimizer and the averages; batches and random numbers follow from seed and step. It lies
in one file, or, where the model is cut over processes, as a part of each in a folder.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blip.io.atomic import writing
from blip_lite.errors import CheckpointError, UsageError

logger = logging.getLogger(__name__)

STATE = "state.pt"
PARTS, VALUES = "state", "run.json"  # of a cut model: its parts, and beside them what is no tensor
STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first."""
        if not self.checkpoints.is_dir():
            return []
        found = (STEP.fullmatch(p.name) for p in self.checkpoints.iterdir() if is_checkpoint(p))
        return sorted(int(m[1]) for m in found if m)

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step_{step}"

    def part(self, step: int) -> Path:
        """Where a checkpoint is written before it gets its name."""
        return self.checkpoints / f".step_{step}.part"

    @contextmanager
    def new(self, step: int) -> Iterator[Path]:
        """An empty folder to write one checkpoint into; it counts when all is well, and `last` points to it."""
        target, temporary = self.checkpoint(step), self.part(step)
        with writing(target):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            try:
                yield temporary
                _sync(temporary)
                shutil.rmtree(target, ignore_errors=True)
                os.replace(temporary, target)
                _sync_folder(self.checkpoints)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self.link("last", step)

    def link(self, name: str, step: int) -> None:
        """`best` or `last` names a checkpoint."""
        temporary = self.path / f".{name}.part"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.checkpoint(step).relative_to(self.path))
        os.replace(temporary, self.path / name)

    def prune(self, keep: int, best: int | None) -> None:
        """Removes all but the newest `keep` checkpoints and the best."""
        for step in self.steps()[:-keep]:
            if step != best:
                shutil.rmtree(self.checkpoint(step))

    def resume_from(self, resume: str) -> tuple[Path, dict[str, Any]] | None:
        """The checkpoint to go on from and its state.

        `auto`: the newest one that can be read, if any; `none`: the folder must have none; else a checkpoint's path.
        """
        steps = self.steps()
        if resume == "none":
            if steps:
                raise UsageError(f"{self.path} holds a run at step {steps[-1]}; choose another folder or resume it")
            return None
        if resume != "auto":
            return Path(resume), load_state(Path(resume))
        for step in reversed(steps):
            try:
                return self.checkpoint(step), load_state(self.checkpoint(step))
            except CheckpointError as error:
                logger.warning("%s; trying the one before", error)
        if steps:
            raise CheckpointError(f"{self.checkpoints}: none of {len(steps)} checkpoints can be read")
        return None


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a whole state, in one file or in parts."""
    return (folder / STATE).is_file() or (folder / PARTS / VALUES).is_file()


def load_state(folder: Path) -> dict[str, Any]:
    """The state of one checkpoint; tensors and plain values only, no code is run.

    Where it lies in parts this is what is no tensor; `blip.train.shard.read_parts` reads the rest.
    """
    if not is_checkpoint(folder):
        raise CheckpointError(f"{folder}: no checkpoint of a run; must be a folder checkpoints/step_N")
    if not (folder / STATE).is_file():
        return _read_values(folder / PARTS / VALUES)
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition(".")[0]
        raise CheckpointError(f"{folder / STATE}: cannot be read ({reason})") from error
    return state


def write_values(folder: Path, values: Mapping[str, Any]) -> None:
    """What is no tensor of a state in parts."""
    (folder / PARTS / VALUES).write_text(json.dumps(dict(values)), encoding="utf-8")


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    return values


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
