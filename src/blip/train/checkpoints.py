"""Checkpoints of a run: `checkpoints/step_N/`, each a model folder that `blip.load` reads, with the state of the run.

A folder is written under another name, synced, then renamed, so that it is never incomplete. `last` and `best` are
links. The state is weights, optimizer state and averages; batches and random numbers follow from seed and step. It is
one file, or for a sharded model a folder with a file per process.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blip.io.atomic import write_text
from blip.io.disk import writing
from blip_lite.errors import CheckpointError, UsageError
from blip_lite.text_files import load_json

logger = logging.getLogger(__name__)

STATE = "state.pt"
SHARDS, VALUES = "state", "run.json"  # of a sharded model: folder of the shards, and in it all values but tensors
FINAL, FINISHED = "final", "finished.json"
STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def is_new(self) -> bool:
        """Whether the folder has neither a checkpoint nor a finished run."""
        return not self.steps() and not (self.path / FINISHED).is_file()

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first."""
        if not self.checkpoints.is_dir():
            return []
        matches = (STEP.fullmatch(p.name) for p in self.checkpoints.iterdir() if is_checkpoint(p))
        return sorted(int(match[1]) for match in matches if match)

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step_{step}"

    def temporary(self, step: int) -> Path:
        """Folder in which a checkpoint is written before it is renamed."""
        return self.checkpoints / f".step_{step}.part"

    @contextmanager
    def new(self, step: int) -> Iterator[Path]:
        """Yield an empty folder for one checkpoint; without an error it gets its name, and `last` points to it."""
        target, temporary = self.checkpoint(step), self.temporary(step)
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
        """Let `best` or `last` point to a checkpoint."""
        temporary = self.path / f".{name}.part"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.checkpoint(step).relative_to(self.path))
        os.replace(temporary, self.path / name)

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all but the newest `keep` checkpoints and the best."""
        for step in self.steps()[:-keep]:
            if step != best:
                shutil.rmtree(self.checkpoint(step))

    def copy_final(self, step: int) -> None:
        """Copy the model of a checkpoint to `final/`."""
        source, ignored = self.checkpoint(step), shutil.ignore_patterns(STATE, SHARDS)
        self.write_final(lambda folder: shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True))

    def write_final(self, write: Callable[[Path], object]) -> None:
        """Let `write` fill the folder `final/`, which replaces an earlier one when it is complete."""
        target, temporary = self.path / FINAL, self.path / f".{FINAL}.part"
        with writing(target):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write(temporary)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)

    def drop_state(self, result: Mapping[str, Any]) -> None:
        """Remove the checkpoints of a finished run, after noting its result."""
        write_text(self.path / FINISHED, json.dumps(dict(result), indent=1) + "\n")
        shutil.rmtree(self.checkpoints)
        for name in ("best", "last"):
            (self.path / name).unlink(missing_ok=True)

    def finished_result(self) -> dict[str, Any] | None:
        """Return what `drop_state` has noted, if the folder has a finished run and no checkpoint."""
        path = self.path / FINISHED
        return None if self.steps() or not path.is_file() else _read_values(path)

    def resume_from(self, resume: str) -> tuple[Path, dict[str, Any]] | None:
        """Return the checkpoint to resume from and its state.

        `auto`: the newest readable one, if any; `none`: the folder must not have one; else the path of a checkpoint.
        """
        steps = self.steps()
        if resume == "none":
            if steps:
                raise UsageError(f"{self.path} contains a run at step {steps[-1]}; choose another folder or resume it")
            return None
        if resume != "auto":
            return Path(resume), load_state(Path(resume))
        for step in reversed(steps):
            try:
                return self.checkpoint(step), load_state(self.checkpoint(step))
            except CheckpointError as error:
                logger.warning("%s; trying the previous one", error)
        if steps:
            raise CheckpointError(f"{self.checkpoints}: none of {len(steps)} checkpoints can be read")
        return None


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder has a complete state, in one file or in shards."""
    return (folder / STATE).is_file() or (folder / SHARDS / VALUES).is_file()


def load_state(folder: Path) -> dict[str, Any]:
    """Return the state of one checkpoint; only tensors and plain values are unpickled.

    For a sharded state these are the values without tensors; `blip.train.shard.read_shards` reads the rest.
    """
    if not is_checkpoint(folder):
        raise CheckpointError(f"{folder}: not a checkpoint; must be a folder checkpoints/step_N of a run")
    if not (folder / STATE).is_file():
        return _read_values(folder / SHARDS / VALUES)
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition(".")[0]
        raise CheckpointError(f"{folder / STATE}: cannot be read ({reason})") from error
    return state


def write_values(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the values of a sharded state that are not tensors."""
    (folder / SHARDS / VALUES).write_text(json.dumps(dict(values)), encoding="utf-8")


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = load_json(path)
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
