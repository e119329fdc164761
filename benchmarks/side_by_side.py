"""All cases by name, and the run of one: outputs compared, then timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import capfilt, cases, retrieval, training
from benchmarks.cases import Case
from benchmarks.machine import commit
from benchmarks.timing import Limits, Ratio, Times, interleave, limits, load

CASES: dict[str, tuple[str, Callable[[], Case]]] = {
    "train": (f"training step 224, {training.PHOTOS} photos", training.case),  # first: three processes of 5 GB each
    **cases.CASES,
    "retrieval": ("ranking 384, 16 photos x 160 texts, k = 16", retrieval.case),
    "capfilt": (f"CapFilt 384, {capfilt.COUNT} photos", capfilt.case),
}


def chosen(names: Sequence[str]) -> list[str]:
    """The named cases in their order, all without names. Raises SystemExit for an unknown name."""
    if unknown := sorted(set(names) - set(CASES)):
        raise SystemExit(f"unknown case {', '.join(unknown)}; must be of {', '.join(CASES)}")
    return [name for name in CASES if not names or name in names]


def run(name: str, rounds: int | None = None) -> dict[str, Any]:
    """Outputs compared, then times; what of it the report shows. rounds: None = as many as the case suggests."""
    title, build = CASES[name]
    case = build()
    remarks = case.check({key: call() for key, call in case.calls.items()})
    best = limits()
    times = interleave(case.calls, rounds or case.rounds)
    times = {key: _scaled(value, case.scale.get(key, 1.0)) for key, value in times.items()}
    rows = [_compared(case, ours, peer, times, best, remarks[ours, peer]) for ours, peer in case.pairs]
    for row in rows:
        print(name, *(f"{value:.2f}" if isinstance(value, float) else value for value in row.values()), flush=True)
    return {"title": title, "commit": commit(), "limits": asdict(best), "load": load(), "rows": rows}


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
