"""One run of a verb over many images: reads ahead, batches, writes records, counts failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from blip.cli import options as o
from blip.cli.batches import Describe, Record, describe_all
from blip.cli.output import StatusLine, plural, print_lines
from blip_lite.errors import UnreadableImage
from blip_lite.streams import STOPPED

if TYPE_CHECKING:
    from blip.io.record_files import RecordWriter
    from blip.io.samples import Sample
    from blip_lite.model import Model


@dataclass(kw_only=True)
class BatchRun:
    """A run of one verb: the kind of records and the flags of their output."""

    schema: str
    flags: o.Run
    per_key: int = 1  # records per image
    show: bool = True  # False: no records are written, only sidecars
    select: Callable[[Sample, list[Record]], list[Record]] = lambda sample, rows: rows  # the records to write

    def is_needed(self, inputs: Sequence[Sample], model: str) -> bool:
        """Return False if the output exists and is to be skipped, or if --dry-run only lists the inputs.

        The output is locked until the command ends. Raises `UsageError` if another run writes to it.
        """
        from blip.io.formats import record_format
        from blip.io.lock import exclusive
        from blip.io.record_files import must_write
        from blip.io.table_writer import require_pyarrow

        flags, output = self.flags, self.flags.output_file
        file_format = record_format(output, flags.record_format, self.schema if self.show else "")
        if file_format == "parquet":
            require_pyarrow()
        if output is not None and not flags.dry_run:
            click.get_current_context().with_resource(exclusive(output))
        if not must_write(output, file_format, existing=flags.existing, resume=flags.resume):
            o.note(f"{output} exists, nothing to do", flags.quiet)
            return False
        if flags.dry_run:
            print_lines(sample.key for sample in inputs)
            where = output if output is not None else "standard output" if self.show else "sidecars"
            o.note(f"{plural(len(inputs), 'input')}, model {model}, device {flags.device}, to {where}")
        return not flags.dry_run

    def run(
        self,
        inputs: Sequence[Sample],
        models: Sequence[Model],
        describe: Describe,
        *,
        listed: int | None = None,
        full_size: bool = False,
    ) -> int:
        """Process all inputs in batches and write their records in order; return the exit code.

        models: those that read the images; the first determines the batch size. listed: number of inputs with those
        that need nothing, by default that of `inputs`. full_size: do not shrink the images.
        """
        from blip.signals import stop_on_signal

        listed = len(inputs) if listed is None else listed
        quiet = self.flags.quiet
        start, tried, failed = time.perf_counter(), 0, 0
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signal())
            records = stack.enter_context(self._records(inputs)) if self.show else None
            remaining = [sample for sample in inputs if records is None or sample.key not in records.done]
            progress = Progress(len(remaining), not (self.flags.no_progress or quiet))
            for batch in describe_all(remaining, describe, models, self.flags, full_size=full_size):
                for sample, result in batch:
                    rows = [self._fail(sample, result, progress)] if isinstance(result, UnreadableImage) else result
                    failed += any("error" in row for row in rows)
                    if records is not None:
                        records.write(self.select(sample, rows))
                tried += len(batch)
                progress.update(tried)
                if stop.reason or (self.flags.strict and failed):
                    break
            progress.clear()
            if records is not None:
                records.finished = tried == len(remaining)
        seconds, done = time.perf_counter() - start, tried - failed
        skipped = f", {listed - len(remaining)} skipped" if listed > len(remaining) else ""
        rate = f"{seconds:.1f} s ({done / seconds:.1f} img/s)"
        o.note(f"{plural(listed, 'input')}, {done} done{skipped}, {failed} failed, {rate}", quiet)
        if tried < len(remaining):
            kept = "" if records is None or records.unfinished is None else f"; --resume continues {records.unfinished}"
            o.note(f"stopped after {tried} of {plural(len(remaining), 'input')}{kept}")
        return STOPPED[stop.reason] if stop.reason else 1 if failed else 0

    def write_all(self, batches: Iterable[Sequence[Record]]) -> None:
        """Write records that need no images."""
        with self._records([]) as records:
            for rows in batches:
                records.write(rows)

    def _records(self, inputs: Sequence[Sample]) -> RecordWriter:
        from blip.io.record_files import open_records

        flags = self.flags
        return open_records(
            flags.output_file,
            schema=self.schema,
            stream=sys.stdout,
            format=flags.record_format,
            resume=flags.resume,
            existing=flags.existing,
            order=[sample.key for sample in inputs],
            per_key=self.per_key,
            single=len({sample.key for sample in inputs}) * self.per_key == 1,
        )

    def _fail(self, sample: Sample, error: UnreadableImage, progress: Progress) -> Record:
        from blip.io.records import error_record

        progress.clear()
        o.note(str(error))
        return error_record(self.schema, sample.key, error)


class Progress(StatusLine):
    """Progress through a known number of images."""

    def __init__(self, total: int, active: bool) -> None:
        super().__init__(active and total > 1)
        self.total = total

    def update(self, done: int) -> None:
        seconds = time.monotonic() - self.started
        remaining = seconds / done * (self.total - done)
        self.show(f"{done}/{self.total} ({done / seconds:.1f} img/s, {remaining:.0f} s left)")
