"""`python -m benchmarks [NAME...] [--rounds N]`: runs cases (all of them without names), writes RESULTS.md.

`python -m benchmarks gpu` checks and measures a GPU; see its `--help`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

if sys.argv[1:2] == ["gpu"]:  # needs no Transformers
    from benchmarks.gpu.command import main as gpu

    sys.exit(gpu(sys.argv[2:]))

from benchmarks import capfilt, report, retrieval
from benchmarks.cases import CASES, Case, chosen
from benchmarks.parts import parts
from benchmarks.timing import Limits, Ratio, Times, interleave, limits, load

CASES |= {
    "retrieval": ("ranking 384, 16 photos x 160 texts, k = 16", retrieval.case),
    "capfilt": (f"CapFilt 384, {capfilt.COUNT} photos", capfilt.case),
}
PARTS = "parts"
PROFILED = {
    "f32, 1 photo": ("f32", 1),
    "f32, 8 photos": ("f32", 8),
    "bf16, 1 photo": ("bf16", 1),
    "bf16, 8 photos": ("bf16", 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CASES)}, {PARTS}; none = all")
    parser.add_argument("--rounds", type=int, help="rounds of each case; default 3 or 5")
    options = parser.parse_args()
    values = report.read()
    values["machine"] = report.machine()
    only_parts = options.names == [PARTS]
    for name, title, build in () if only_parts else chosen([n for n in options.names if n != PARTS]):
        values["cases"][name] = {"title": title, **run(name, build(), options.rounds)}
        report.write(values, list(CASES))
    for name, (dtype, count) in PROFILED.items() if only_parts or not options.names else ():
        values["parts"][name] = parts(dtype, count)
        report.write(values, list(CASES))
        print(name, values["parts"][name], flush=True)


def run(name: str, case: Case, rounds: int | None) -> dict[str, Any]:
    """Outputs compared, then times; what of it the report shows."""
    remarks = case.check({key: call() for key, call in case.calls.items()})
    best = limits()
    times = interleave(case.calls, rounds or case.rounds)
    times = {key: _scaled(value, case.scale.get(key, 1.0)) for key, value in times.items()}
    rows = [_compared(case, ours, peer, times, best, remarks[ours, peer]) for ours, peer in case.pairs]
    for row in rows:
        print(name, *(f"{value:.2f}" if isinstance(value, float) else value for value in row.values()), flush=True)
    return {"limits": asdict(best), "load": load(), "rows": rows}


def _compared(case: Case, ours: str, peer: str, times: dict[str, Times], best: Limits, remark: str) -> dict[str, Any]:
    ratio, share = Ratio.of(times[peer], times[ours]), 0.0
    if work := case.work.get(ours):
        rate = best.bfloat16 if "bf16" in ours else best.float32
        share = (1e9 * work.gflop / rate + 1e9 * work.gbyte / best.read) / times[ours].median
    return {
        "ours": ours.removeprefix("ours "),
        "ours_s": times[ours].median,
        "peer": peer.removeprefix("peer "),
        "peer_s": times[peer].median,
        "ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "wall": ratio.wall,
        "share": share,
        "remark": remark,
    }


def _scaled(times: Times, factor: float) -> Times:
    return Times([t * factor for t in times.wall], [t * factor for t in times.cpu])


if __name__ == "__main__":
    main()
