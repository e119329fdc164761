"""Training log: progress line on standard error, `train.jsonl`, TensorBoard files."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from blip.io.atomic import write_text
from blip_lite.text_files import parse_json, read_text

logger = logging.getLogger(__name__)
PLAIN_SECONDS = 30.0  # between lines if standard error is not a terminal
FIRST_SECONDS = 5.0  # to the first of these lines, so that an estimate of the duration comes early
TERMINAL_SECONDS = 0.2  # between updates of the line on a terminal


class TrainLog:
    """Writes records `train/1`. Only that of the first process is `active`."""

    def __init__(self, folder: Path, *, active: bool, start_step: int, total_steps: int, quiet: bool = False) -> None:
        self.active, self.total_steps, self.quiet = active, total_steps, quiet
        self._tensorboard: Any = None
        self._last_line = time.monotonic()
        self._interval = FIRST_SECONDS
        self._stream: TextIO = sys.stderr
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "train.jsonl"
        _truncate(path, start_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed with the run)
        self._tensorboard = _tensorboard(folder / "tb", start_step)

    def row(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one line of train.jsonl, and its numbers to TensorBoard. step: number of finished steps."""
        if not self.active:
            return
        row = {"schema": "train/1", "step": step, **{k: _rounded(v) for k, v in values.items()}}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(name, value, step)

    def progress(
        self, step: int, epoch: int, losses: Mapping[str, float], images_per_s: float, remaining: float
    ) -> None:
        """Update the progress line, every step: redrawn on a terminal, else a new line at intervals.

        remaining: seconds that the run still needs.
        """
        if not self.active or self.quiet:
            return
        now, on_terminal = time.monotonic(), self._stream.isatty()
        interval = TERMINAL_SECONDS if on_terminal else self._interval
        if now - self._last_line < interval and step < self.total_steps:
            return
        self._last_line, self._interval = now, PLAIN_SECONDS
        text = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        line = f"step {step}/{self.total_steps} epoch {epoch} {text} {images_per_s:.1f} img/s, "
        line += f"about {_duration(remaining)} left" if step < self.total_steps else "done"
        self._stream.write(f"\r\x1b[2K{line}" if on_terminal else f"{line}\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """Print a separate line, if there is a text."""
        if text and self.active and not self.quiet:
            self._stream.write(("\r\x1b[2K" if self._stream.isatty() else "") + text + "\n")
            self._stream.flush()

    def close(self) -> None:
        if self.active:
            self._file.close()
            if self._tensorboard is not None:
                self._tensorboard.close()


def _truncate(path: Path, step: int) -> None:
    """Remove rows of steps that will be repeated, and an incomplete last line."""
    if not path.is_file():
        return
    if step == 0:
        path.unlink()
        return
    kept = []
    for line in read_text(path).splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning('no TensorBoard files; to write them: pip install "blip-vlm[train]"')
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
