"""One run of a verb over many shards: a file of records for each, by an engine; started again, it continues."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip.checkpoint.digest import weights_sha256
from blip.cli import options as o
from blip.cli.batches import Describer, describe_all
from blip.cli.engine_options import ShardRun
from blip.cli.output import StatusLine, plural, print_lines
from blip.engine.folder import OutputFolder
from blip.engine.run import Engine, Summary
from blip.engine.run import run as run_units
from blip.engine.units import Unit, list_units, read
from blip.engine.work import Counts, Tick
from blip.io import table_writer
from blip.io.columns import Columns
from blip.io.formats import record_format, require_folder
from blip.io.inputs import FIELDS, samples_of, with_unique_keys
from blip.io.paths import expand_name
from blip.io.record_files import open_records
from blip.io.records import error_record
from blip_lite.errors import UnreadableImage, UsageError

if TYPE_CHECKING:
    from blip_lite.model import Model

# flags about single images or about a file
OTHERS = (
    *("recursive", "hidden", "glob", "ext", "from_file", "null", "limit", "shard", "frames", "fps"),
    *("strict", "json", "overwrite"),
)
REASONS = 10  # of errors shown, the most frequent ones


def run_shards(describer: Describer, names: Sequence[str], run: ShardRun, settings: dict[str, Any]) -> int:
    """Write the records of each shard to a file of its own in the output folder; return the exit code.

    settings: everything besides the data that determines the records.
    """
    output = run.output_folder
    assert output is not None, "the verb has checked it"
    _check(run, output)
    columns = Columns(roots=() if run.root is None else (run.root,), image=run.image_column, strict=False, keep=FIELDS)
    sources = [source for name in names for source in expand_name(name)]
    if run.dry_run:
        units = list_units(sources, columns, run.rows_per_shard)
        print_lines(unit.name for unit in units)
        o.note(f"{plural(len(units), 'shard')}, device {run.device}, engine {run.engine}, to {output}")
        return 0
    settings = {
        "record": describer.schema,
        **settings,
        "image_size": run.image_size,
        "dtype": run.dtype,
        "backend": run.backend,
        "columns": {"root": run.root and str(run.root), "image": run.image_column},
        "rows_per_shard": run.rows_per_shard,
        "max_megapixels": run.max_megapixels,
    }
    status, started = StatusLine(not (run.no_progress or run.quiet)), time.perf_counter()
    try:
        summary = run_units(
            RecordWork(describer, columns),
            sources,
            columns,
            OutputFolder(output, output),
            settings,
            rows=run.rows_per_shard,
            engine=Engine(name=run.engine, actors=run.actors or 1, device=run.device, address=run.ray_address),
            show=status.show,
        )
    finally:
        status.clear()
    o.note(describe(summary, time.perf_counter() - started), run.quiet)
    for line in failures(summary):
        o.note(line)
    return 1 if summary.failed or summary.problems else 0


def _check(run: ShardRun, output: Path) -> None:
    """Raise `UsageError` for flags that a folder as output does not support."""
    run.check_engine()
    require_folder(output)
    table_writer.require_pyarrow()
    if record_format(None, run.format) not in ("text", "parquet") or run.format == "text":
        raise UsageError(f"--format {run.format} with -o {output}/; must be parquet")
    defaults = {f.name: f.default for f in fields(run)}
    for name in OTHERS:
        if getattr(run, name) != defaults[name]:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} with -o {output}/; must be used with a file as output")


def model_settings(name: str, run: o.Run) -> dict[str, str]:
    """Return a model as a setting of an output folder; its weights are downloaded if necessary."""
    return {"name": name, "sha256": weights_sha256(name, offline=run.offline or None)}


@dataclass
class RecordWork:
    """Writes the records of a shard's images to a Parquet file."""

    describer: Describer
    columns: Columns
    models: Sequence[Model] = field(default=(), init=False)

    def load(self, threads: int | None = None) -> None:
        """Open the models."""
        self.models = self.describer.load(threads)

    def process(self, unit: Unit, path: Path, tick: Tick) -> None:
        """Write the file of a shard; an image that cannot be read has a record with the reason."""
        schema, done = self.describer.schema, 0
        samples = list(with_unique_keys(samples_of(unit.source, read(unit, self.columns))))
        with open_records(
            path, schema=schema, stream=sys.stdout, format="parquet", existing="overwrite", all_columns=True
        ) as records:
            for batch in describe_all(samples, self.describer, self.models, self.describer.run):
                counts = Counts(images=len(batch))
                for sample, result in batch:
                    rows = [error_record(schema, sample.key, result)] if isinstance(result, UnreadableImage) else result
                    records.write(rows)
                    counts.errors.update(row["error"]["reason"] for row in rows if "error" in row)
                done += len(batch)
                tick(counts, done / len(samples))

    def counts(self, path: Path) -> Counts:
        """Return the number of images and the reasons of errors in a finished file."""
        rows = table_writer.require_pyarrow().parquet.read_table(path, columns=["error"])
        counts = Counts(images=rows.num_rows)
        counts.errors.update(error["reason"] for error in rows["error"].drop_null().to_pylist())
        return counts


def describe(summary: Summary, seconds: float) -> str:
    """Return the counts of a run in one line."""
    counts = summary.counts
    earlier = summary.shards - summary.written - len(summary.problems)
    skipped = f" ({earlier} done before)" if earlier else ""
    done = f"{counts.images - summary.failed:,} done, {summary.failed:,} failed"
    return f"{plural(summary.shards, 'shard')}{skipped}, {plural(counts.images, 'image')}, {done}, {seconds:.1f} s"


def failures(summary: Summary) -> list[str]:
    """Return a line for each shard that failed, and for each of the most frequent reasons of failed images."""
    lines = [f"shard {name}: {reason}" for name, reason in sorted(summary.problems.items())]
    if summary.problems:
        lines.append(f"{plural(len(summary.problems), 'shard')} not written; the same command tries them again")
    reasons = Counter[str]()
    for reason, count in summary.counts.errors.items():
        reasons[re.sub(r"\d[\d,.]*", "N", reason)] += count  # sizes differ
    lines += [f"{count:,} failed: {reason}" for reason, count in reasons.most_common(REASONS)]
    others = len(reasons) - REASONS
    return lines + ([f"and {plural(others, 'other reason')}"] if others > 0 else [])
