"""One run of a verb over many images: read ahead, batch, record, count; a bad input never loses the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blip.cli import options as o
from blip.cli.output import plural
from blip_lite.errors import EnvironmentProblem, UnreadableImage, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip.io.records import RecordWriter
    from blip.io.samples import Sample
    from blip_lite.model import Model

Record = dict[str, Any]
Good = Sequence[tuple["Sample", "Image"]]
Describe = Callable[[Good], Sequence[list[Record]]]  # the records of each image
PLAIN_SECONDS = 30.0  # between progress lines where standard error is no terminal


@dataclass(kw_only=True)
class Flow:
    """What is written of the images, and the flags that say where and how."""

    schema: str
    flags: o.Run
    per_key: int = 1  # records of one image
    show: bool = True  # whether records are written at all (sidecars may be enough)
    written: Callable[[Sample, list[Record]], list[Record]] = lambda one, rows: rows  # of the records of an input

    def must_write(self) -> bool:
        """False when the output is there and is to be skipped."""
        from blip.io.records import format_of, must_write

        flags = self.flags
        format_of(flags.output, flags.record_format)
        if must_write(flags.output, existing=flags.existing, resume=flags.resume):
            return True
        o.note(f"{flags.output} exists, nothing to do", flags.quiet)
        return False

    def dry_run(self, inputs: Sequence[Sample], model: str | None) -> int:
        """Lists what would be done."""
        for one in inputs:
            print(one.key)
        output = self.flags.output
        where = output if output is not None else "standard output" if self.show else "sidecars"
        o.note(f"{plural(len(inputs), 'input')}, model {o.model_name(model)}, device {self.flags.device}, to {where}")
        return 0

    def run(self, inputs: Sequence[Sample], listed: int, model: Model, describe: Describe) -> int:
        """Describes all inputs, some at once, and writes their records in order; the exit code."""
        from blip.signals import stop_on_signal

        quiet, size = self.flags.quiet, self.flags.default_batch_size(model)
        start, failed, done = time.perf_counter(), 0, 0
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signal())
            records = stack.enter_context(self._records(inputs)) if self.show else None
            left = [one for one in inputs if records is None or one.key not in records.done]
            drawn = Progress(len(left), not (self.flags.no_progress or quiet))
            for batch in self._read(left, size):
                good = [(one, image) for one, image in batch if not isinstance(image, UnreadableImage)]
                described = iter(_halving(describe, good))
                for one, image in batch:
                    rows = [self._failed(one, image, drawn)] if isinstance(image, UnreadableImage) else next(described)
                    if records is not None:
                        records.write(self.written(one, rows))
                done, failed = done + len(good), failed + len(batch) - len(good)
                drawn.at(done + failed)
                if stop.reason or (self.flags.strict and failed):
                    break
            drawn.clear()
        seconds = time.perf_counter() - start
        skipped = f", {listed - len(left)} skipped" if listed > len(left) else ""
        rate = f"{seconds:.1f} s ({done / seconds:.1f} img/s)"
        o.note(f"{plural(listed, 'input')}, {done} done{skipped}, {failed} failed, {rate}", quiet)
        return o.STOPPED[stop.reason] if stop.reason else 1 if failed else 0

    def write_all(self, batches: Iterable[Sequence[Record]]) -> None:
        """Writes records that need no images."""
        with self._records([]) as records:
            for rows in batches:
                records.write(rows)

    def _records(self, inputs: Sequence[Sample]) -> RecordWriter:
        from blip.io.records import open_records
        from blip.io.vectors import SUFFIXES, VectorFile

        flags = self.flags
        if flags.output is not None and flags.output.suffix in SUFFIXES and flags.record_format is None:
            if flags.resume:
                raise UsageError("--resume; must be used with -o FILE.jsonl, other formats are written at the end")
            return VectorFile(flags.output)
        return open_records(
            flags.output,
            schema=self.schema,
            stream=sys.stdout,
            format=flags.record_format,
            resume=flags.resume,
            existing=flags.existing,
            order=[one.key for one in inputs],
            per_key=self.per_key,
            single=len({one.key for one in inputs}) * self.per_key == 1,
        )

    def _failed(self, one: Sample, error: UnreadableImage, drawn: Progress) -> Record:
        from blip.io.records import error_record

        drawn.clear()
        o.note(str(error))
        return error_record(self.schema, one.key, error)

    def _read(self, inputs: Sequence[Sample], size: int) -> Iterator[list[tuple[Sample, Image | UnreadableImage]]]:
        """Yield batches of decoded images or of the errors in their place; threads read two batches ahead."""
        from blip.io.ordered_map import batched, ordered_map

        pixels = int(self.flags.max_megapixels * 1e6)

        def read(one: Sample) -> Image | UnreadableImage:
            try:
                return one.read(max_pixels=pixels)
            except UnreadableImage as error:
                return error

        images = ordered_map(read, inputs, ahead=2 * size, workers=self.flags.workers or o.default_workers())
        return batched(zip(inputs, images, strict=True), size)


def _halving(describe: Describe, good: Good) -> Sequence[list[Record]]:
    """`describe`, in halves where the device's memory is not enough."""
    if not good:
        return []
    torch = sys.modules.get("torch")  # not there where an exported model runs
    if torch is None:
        return describe(good)
    try:
        return describe(good)
    except torch.OutOfMemoryError as error:
        if len(good) == 1:
            raise EnvironmentProblem("out of memory with one image; use --device cpu or --image-size") from error
    torch.cuda.empty_cache()
    half = (len(good) + 1) // 2
    return [*_halving(describe, good[:half]), *_halving(describe, good[half:])]


class Progress:
    """How far the run is, on standard error: redrawn on a terminal, else a line now and then."""

    def __init__(self, total: int, active: bool) -> None:
        self.total, self.active = total, active and total > 1
        self.terminal = sys.stderr.isatty()
        self.started = self.last = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if not self.active or (not self.terminal and now - self.last < PLAIN_SECONDS):
            return
        self.last = now
        seconds = (now - self.started) / done * (self.total - done)
        line = f"{done}/{self.total} ({done / (now - self.started):.1f} img/s, {seconds:.0f} s left)"
        sys.stderr.write(f"\r\x1b[2K{line}" if self.terminal else f"{line}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        if self.active and self.terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
