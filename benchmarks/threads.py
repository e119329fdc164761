"""The same work on one thread and on two, by the clock: for a machine that does nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import side_by_side
from benchmarks.machine import commit
from benchmarks.timing import Call, interleave, load
from blip.runtime import threads

CASES = ("caption-b1", "itm", "embed-384", "caption-b8")
COUNTS = (1, 2)


def measure(rounds: int = 3) -> dict[str, Any]:
    """Seconds by the clock of our calls of each case, for each number of threads, in turn."""
    rows: list[dict[str, Any]] = []
    for name in CASES:
        title, build = side_by_side.CASES[name]
        calls = {name: call for name, call in build().calls.items() if _is_counted(name)}
        for ours, call in calls.items():
            variants = {str(count): _on(count, call) for count in COUNTS}
            for variant in variants.values():
                variant()  # untimed
            times = interleave(variants, rounds)
            walls = [statistics.median(times[key].wall) for key in variants]
            ratios = sorted(a / b for a, b in zip(*(times[key].wall for key in variants), strict=True))
            row = {"title": title, "ours": ours.removeprefix("ours "), "seconds": walls}
            rows.append(row | {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]})
            print(*rows[-1].values(), flush=True)
    return {"commit": commit(), "load": load(), "rows": rows}


def _is_counted(name: str) -> bool:
    return name.startswith("ours") and "not packed" not in name


def _on(count: int, call: Call) -> Callable[[], Any]:
    def on_threads() -> Any:
        with threads(count):
            return call()

    return on_threads


def section(values: dict[str, Any]) -> list[str]:
    """Lines of RESULTS.md."""
    if not values:
        return []
    lines = ["## Two threads", "", "Seconds by the clock of the same work, in turn, medians, on an idle machine"]
    lines += [f"(load {values['load']:.1f}; commit {values['commit']}). Command: `python -m benchmarks threads`"]
    lines += ["", "| case | ours | one thread | two threads | ratio |", "|---" * 5 + "|"]
    for row in values["rows"]:
        single, double = row["seconds"]
        ratio = f"**{row['ratio']:.2f}** ({row['low']:.2f}-{row['high']:.2f})"
        lines.append(f"| {row['title']} | {row['ours']} | {single:.2f} | {double:.2f} | {ratio} |")
    return lines
