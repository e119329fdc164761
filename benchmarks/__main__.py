"""Measure cases and write RESULTS.md; compare with the committed ratios; measure a GPU.

python -m benchmarks [NAME...] [--rounds N]        run cases, all without names, and write RESULTS.md
python -m benchmarks parts|threads                 where the time goes; one thread against two
python -m benchmarks folder|memory --help          whole folders; peak memory of each command
python -m benchmarks check [NAME...] [--rounds N]  fail if a ratio is below 90 % of that in RESULTS.md
python -m benchmarks gpu --help                    check and measure a GPU
"""

from __future__ import annotations

import argparse
import sys

if sys.argv[1:2] == ["gpu"]:  # needs no Transformers
    from benchmarks.gpu.command import main as gpu

    sys.exit(gpu(sys.argv[2:]))

from benchmarks import folder, memory, report, side_by_side, threads
from benchmarks.check import check
from benchmarks.machine import machine
from benchmarks.parts import tables

SECTIONS = {"folder": folder.run, "memory": memory.run}


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in SECTIONS:
        measured = SECTIONS[sys.argv[1]](sys.argv[2:])
        report.write(report.read() | {sys.argv[1]: measured})
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(side_by_side.CASES))
    parser.add_argument("--rounds", type=int, help="rounds of each case; default 2 to 5")
    options = parser.parse_args()
    names: list[str] = options.names
    if names[:1] == ["check"]:
        return check(names[1:], options.rounds)
    everything, cases = not names, [name for name in names if name not in ("parts", "threads")]
    values = report.read()
    values["machine"] = machine()
    if everything or "threads" in names:
        values["threads"] = threads.measure()
        report.write(values)
    for name in side_by_side.chosen(cases) if everything or cases else ():
        values["cases"][name] = side_by_side.run(name, options.rounds)
        report.write(values)
    for table, row, milliseconds in tables() if everything or "parts" in names else ():
        values["parts"].setdefault(table, {})[row] = milliseconds
        report.write(values)
        print(table, row, milliseconds, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
