"""`blip capfilt select` on synthetic score files: time, memory and disk space.

    python -m benchmarks.select --folder runs/select --rows 100_000_000 -o select.json

The scores are generated once (about 50 bytes per row) and used again by a later call: two texts per image, 10,000
images per file, all columns, with repeated synthetic texts, equal URLs and bytes, and near hashes. There are no images:
the tables that `select` writes point into empty tars. Each case is a process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.report import machine
from blip.capfilt.record import COLUMNS, SCHEMA

IMAGES = 10_000  # per file
CASES = {
    "threshold 0.5": [],
    "all rules": [
        *("--threshold", "60%", "--where", "itc > 0.1 and width >= 256", "--keep", "best-per-kind"),
        *("--drop-duplicates", "url,bytes,near", "--max-repeats", "100", "--limit", "10000000"),
    ],
}
_WORDS = """man woman dog cat car tree house street beach table train bird horse boat plate sky hat ball field room"""
# u(i, salt): uniform in [0, 1), from the image's number alone; one of ten images is a copy of an earlier one
_MACROS = f"""
CREATE MACRO u(i, salt) AS (hash(i * 16 + salt) >> 11)::DOUBLE / 9007199254740992;
CREATE MACRO word(i, salt) AS (string_split('{_WORDS}', ' '))[1 + floor(20 * u(i, salt) ** 2)::INTEGER];
CREATE MACRO original(n) AS CASE WHEN u(n, 1) < 0.1 THEN (n * u(n, 2))::BIGINT ELSE n END;
CREATE MACRO copied(n, low, high) AS CASE WHEN u(n, 4) BETWEEN low AND high THEN original(n) ELSE n END;
"""
_ROWS = "SELECT n, unnest(['web', 'synthetic']) AS kind FROM range({first}, {last}) t(n)"
_COLUMNS = {
    "key": "'{shard}.tar/' || lpad((n % 10000)::VARCHAR, 9, '0')",
    "shard": "'{folder}/{shard}.tar'",
    "image": "lpad((n % 10000)::VARCHAR, 9, '0') || '.jpg'",
    "offset": "(n % 10000) * 51200 + 512",
    "size": "40000 + (u(n, 3) * 9000)::BIGINT",
    "row": "NULL",
    "url": "'https://images.example.org/' || md5(copied(n, 0, 0.4)::VARCHAR) || '.jpg'",
    "sha256": "md5(copied(n, 0.2, 0.6)::VARCHAR) || md5((-copied(n, 0.2, 0.6))::VARCHAR)",
    "phash": "xor(hash(copied(n, 0.5, 1)), 3::UBIGINT << (u(n, 5) * 62)::INTEGER)",
    "width": "200 + (u(n, 6) * 800)::INTEGER",
    "height": "200 + (u(n, 7) * 800)::INTEGER",
    "kind": "kind",
    "index": "0",
    "text": "concat_ws(' ', 'a', word(n, 8), 'and a', word(n, 9), 'near a', word(n, 10), "
    "CASE kind WHEN 'web' THEN 'for sale ' || n % 1000003 ELSE 'with a ' || word(n, 11) || ' ' || word(n, 12) END)",
    "itm": "CASE kind WHEN 'web' THEN u(n, 14) ** 2 ELSE sqrt(u(n, 15)) END",
    "itc": "0.6 * CASE kind WHEN 'web' THEN u(n, 14) ELSE u(n, 15) END",
    "logprob": "CASE kind WHEN 'synthetic' THEN -30 * u(n, 13) END",
    "tokens": "CASE kind WHEN 'synthetic' THEN 9 END",
    "error": "NULL",
}
_TYPES = {"string": "VARCHAR", "int64": "BIGINT", "int32": "INTEGER", "uint64": "UBIGINT", "float32": "FLOAT"}


def generate(folder: Path, rows: int) -> None:
    """Write score files; those that exist are kept."""
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    (folder / "tars").mkdir(exist_ok=True)
    connection = duckdb.connect()
    connection.execute(_MACROS)
    for number in range(max(1, rows // 2 // IMAGES)):
        shard = f"{number:06}"
        path = folder / "scores" / f"{shard}.parquet"
        if path.exists():
            continue
        (folder / "tars" / f"{shard}.tar").touch()
        columns = ", ".join(f'({sql})::{_TYPES[COLUMNS[name]]} AS "{name}"' for name, sql in _COLUMNS.items())
        query = f"SELECT {columns} FROM ({_ROWS}) ORDER BY n, kind DESC"
        query = query.format(first=number * IMAGES, last=(number + 1) * IMAGES, shard=shard, folder=folder / "tars")
        part = path.with_suffix(".part")
        connection.execute(
            f"COPY ({query}) TO '{part}' (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{schema: '{SCHEMA}'}})"
        )
        part.rename(path)


class DiskUse:
    """The largest number of bytes in a folder while a command runs, checked every second."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stop, self.largest = folder, threading.Event(), 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.largest = max(self.largest, folder_bytes(self._folder))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def folder_bytes(folder: Path) -> int:
    """Return the bytes on disk below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def measure(folder: Path, flags: list[str]) -> dict[str, Any]:
    """Run `select` once and return its seconds, peak memory and disk space, and what it kept."""
    output = folder / "selected"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "blip", "capfilt", "select", str(folder), "-o", str(output), "--quiet", *flags]
    disk, start = DiskUse(output), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        disk.close()
    if status:
        raise SystemExit(f"{' '.join(command)}: exit code {os.waitstatus_to_exitcode(status)}")
    record = json.loads((output / "selection.json").read_text())
    return {
        "command": " ".join(["blip", *command[3:]]).replace(str(folder), "FOLDER"),
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mb": round(usage.ru_maxrss / 1000),
        "peak_disk_mb": round(disk.largest / 1e6),
        "output_mb": round(folder_bytes(output) / 1e6),
        "rows": record["rows"],
        "images": record["images"],
        "texts": record["texts"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of the generated scores")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--memory", default="2GB", help="limit of the database")
    parser.add_argument("--format", default="parquet")
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the results")
    options = parser.parse_args()
    start = time.monotonic()
    generate(options.folder, options.rows)
    print(
        f"scores: {folder_bytes(options.folder / 'scores') / 1e9:.2f} GB, {time.monotonic() - start:.0f} s", flush=True
    )
    flags = ["--memory", options.memory, "--format", options.format]
    results: dict[str, Any] = {"machine": machine(), "cases": {}}
    for name, case in CASES.items():
        results["cases"][name] = measure(options.folder, [*flags, *case])
        print(name, json.dumps(results["cases"][name], indent=1), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
