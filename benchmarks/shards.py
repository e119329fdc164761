"""Training data of any number of rows: opening, memory and reading speed against rows held in memory, disk access.

    python -m benchmarks.shards                                    # 200,000 rows, under a minute
    python -m benchmarks.shards --rows 20000000 --folder /data/tmp # tars and JSON lines of 20 million rows each

Rows are generated and removed again. JSON lines are written in full (90 bytes each). Of tars, a few are written, of
10,000 pairs of 1 kB; the others are links to them, each with an index of its own: opening and memory are those of as
many files, disk access is measured apart, on tars with 30 kB per pair. Each measurement runs in a process of its own.
Samples are counted per processor second, without decoding images, so that the number is valid on a busy machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip.data.indexed_source import IndexedSource, open_for_training
from blip.data.loader import EpochSampler
from blip.data.order import Shuffled, Windowed
from blip.data.read_ahead import read_ahead
from blip.data.sources import Reading, Source
from blip.io.samples import Sample

SHARD_ROWS, DISTINCT = 10_000, 16  # rows of a tar, tars that are written
BATCH, SAMPLES = 600, 30_000  # samples per step, samples read
IN_MEMORY = 200_000  # rows for the reader that holds them
DISK_SHARDS, DISK_ROWS, DISK_BYTES, DISK_WINDOW, DISK_RATE = 32, 1000, 30_000, 4, 1500.0


def jpeg() -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (16, 16, 3), np.uint8)).save(data, "JPEG")
    return data.getvalue()


def write_tar(path: Path, rows: int, image: Callable[[int], bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(rows):
            for ending, data in (("jpg", image(number)), ("txt", b"a photo of thing %d beside another thing" % number)):
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_tars(folder: Path, rows: int) -> str:
    data, count = jpeg(), -(-rows // SHARD_ROWS)
    for number in range(count):
        path = folder / f"{number:06d}.tar"
        if number < DISTINCT:
            write_tar(path, SHARD_ROWS, lambda number: data)
        else:
            os.link(folder / f"{number % DISTINCT:06d}.tar", path)
    return str(folder / "*.tar")


def write_lines(folder: Path, rows: int) -> str:
    (folder / "image.jpg").write_bytes(jpeg())
    with open(folder / "rows.jsonl", "w") as file:
        for number in range(rows):
            text = f"a photo of thing {number} beside another thing"
            file.write(f'{{"image": "image.jpg", "caption": "{text}", "id": {number}}}\n')
    return str(folder / "rows.jsonl")


def resident_mb() -> float:
    """Memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def steps(source: Source) -> EpochSampler:
    """The sampler of a training run, started in the middle of an epoch by `samples`."""
    order = None
    if isinstance(source, IndexedSource):
        shards = source.shards
        order = Windowed(lambda epoch: shards, 16, 1)
    return EpochSampler(len(source), min(BATCH, len(source)), 1, order=order)


def samples(source: Source, count: int) -> Iterator[Sample]:
    sampler = steps(source)
    first = sampler.steps_in(0) // 2
    for step in range(first, first + -(-count // sampler.batch_size)):
        for index in sampler.batch(step):
            yield source[index]


def opening(spec: str, memory_rows: int) -> dict[str, float]:
    """Measure opening and reading in this process."""
    before, start, cpu = resident_mb(), time.perf_counter(), time.process_time()
    source = open_for_training(Reading(memory_rows=memory_rows), spec, need_text=True)
    opened, opened_cpu = time.perf_counter() - start, time.process_time() - cpu
    after, start = resident_mb(), time.process_time()
    count = sum(1 for sample in samples(source, SAMPLES) if sample.image.read_bytes())
    seconds = time.process_time() - start
    return {
        "rows": len(source),
        "open_s": opened,
        "open_cpu_s": opened_cpu,
        "opened_mb": after - before,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
        "process_mb": before,
        "samples_per_s": count / seconds,
    }


def disk(spec: str, windowed: bool, ahead: bool) -> dict[str, float]:
    """Measure how many samples are in memory before they are read, after the system has dropped the files."""
    source = open_for_training(Reading(memory_rows=0), spec, need_text=True)
    assert isinstance(source, IndexedSource)
    for index in source.indexes:
        descriptor = os.open(index.file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    announced: list[int] = []
    reader = read_ahead(source, DISK_WINDOW) if ahead else None

    def on_shard(first: int, count: int) -> None:
        announced.append(first)
        if reader is not None:
            reader(first, count)

    shards, files = source.shards, {index.file: os.open(index.file, os.O_RDONLY) for index in source.indexes}
    order = Windowed(lambda epoch: shards, DISK_WINDOW, 1, on_shard) if windowed else Shuffled(lambda e: len(source), 1)
    missed, start = 0, time.perf_counter()
    for number in range(len(source)):
        row = int(order.take(0, number, number + 1)[0][0])
        part = source.byte_range(row, 1)
        assert part is not None
        try:
            missed += os.preadv(files[part.file], [bytearray(part.end - part.start)], part.start, os.RWF_NOWAIT) < (
                part.end - part.start
            )
        except BlockingIOError:
            missed += 1
        source[row].image.read_bytes()
        time.sleep(max(0.0, start + number / DISK_RATE - time.perf_counter()))
    jumps = missed + (len(announced) if reader is not None else 0)
    return {
        "in_memory": 1 - missed / len(source),
        "seeks_per_1000": 1000 * jumps / len(source),
        "samples_per_s": len(source) / (time.perf_counter() - start),
    }


def alone(function: str, *arguments: Any) -> dict[str, float]:
    """Return the result of a function that runs in a new process."""
    command = [sys.executable, "-m", "benchmarks.shards", "--call", json.dumps([function, *arguments])]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def compare(name: str, write: Callable[[Path, int], str], folder: Path, rows: int) -> None:
    """Print a row for data read through an index, and one for fewer rows held in memory."""
    (folder / "few").mkdir(parents=True)
    few = write(folder / "few", min(rows, IN_MEMORY))
    spec = write(folder, rows)
    start, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    alone("opening", spec, 0)
    built, built_cpu = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - cpu
    indexes = sum(path.stat().st_size for path in (folder / ".blip").iterdir())
    size = f"{indexes / rows:.1f} bytes per row"
    print(f"{name}: index of {rows:,} rows built in {built:,.0f} s ({built_cpu:,.0f} processor s), {size}", flush=True)
    for title, values in (("index", alone("opening", spec, 0)), ("memory", alone("opening", few, 10**9))):
        numbers = [f"{values[key]:.2f}" for key in ("open_s", "open_cpu_s")]
        numbers += [f"{values[key]:,.0f}" for key in ("opened_mb", "peak_mb", "samples_per_s")]
        print(f"| {name}, {title} | {values['rows']:,.0f} | {' | '.join(numbers)} |", flush=True)


def compare_orders(folder: Path) -> None:
    """Print a row for each order of samples and its disk access."""
    folder.mkdir()
    for number in range(DISK_SHARDS):
        write_tar(folder / f"{number}.tar", DISK_ROWS, lambda number: os.urandom(DISK_BYTES))
    print(f"\n{DISK_SHARDS} tars of {DISK_ROWS} samples, {DISK_BYTES:,} bytes each, at most {DISK_RATE:g} samples/s:")
    print("| order | in memory before it is read | disk seeks per 1,000 samples | samples/s |")
    print("|---" * 4 + "|")
    for title, arguments in (
        ("all rows shuffled", (False, False)),
        (f"windows of {DISK_WINDOW} shards, not read ahead", (True, False)),
        (f"windows of {DISK_WINDOW} shards, read ahead", (True, True)),
    ):
        values = alone("disk", str(folder / "*.tar"), *arguments)
        seeks, speed = values["seeks_per_1000"], values["samples_per_s"]
        print(f"| {title} | {values['in_memory']:.1%} | {seeks:.1f} | {speed:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--format", choices=("tar", "jsonl", "disk"), help="only this measurement; default all")
    parser.add_argument("--folder", help="folder for the rows, by default that of temporary files")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        function, *arguments = json.loads(options.call)
        print(json.dumps(disk(*arguments) if function == "disk" else opening(*arguments)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        print("| data, reader | rows | open, s | open, processor s | opened, MB | peak, MB | samples per processor s |")
        print("|---" * 7 + "|")
        for kind, write in (("tar", write_tars), ("jsonl", write_lines)):
            if options.format in (None, kind):
                compare(kind, write, Path(name, kind), options.rows)
        if options.format in (None, "disk"):
            compare_orders(Path(name, "disk"))


if __name__ == "__main__":
    main()
