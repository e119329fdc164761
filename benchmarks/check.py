"""`python -m benchmarks check [NAME...]`: fails if a case has become slower than in the committed results.

A row passes if its ratio to the peer is at least 90 % of the committed one. Outputs are compared as always. A case with
a row below that runs once more, and the better ratio of both counts: other work on the machine slows single rounds.
The results are unchanged. Ratios of another processor say nothing, so there it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import report, side_by_side
from benchmarks.machine import processor

LEAST = 0.9
Row = Mapping[str, Any]


def check(names: Sequence[str], rounds: int | None) -> int:
    """Exit code: 0 if no row has fallen below its share of the committed ratio, 1 if one has, 2 without results."""
    values, names = report.read(), side_by_side.chosen(names)
    measured_on = values["machine"].get("processor", "no processor")
    if not measured_on.startswith(processor()):
        print(f"results.json is of {measured_on}, this is {processor()}: run `make bench` on this machine first")
        return 2
    slower: list[str] = []
    for name in names:
        if name not in values["cases"]:
            print(f"results.json has no case '{name}': run `python -m benchmarks {name}` first")
            return 2
        committed = values["cases"][name]["rows"]
        rows = side_by_side.run(name, rounds)["rows"]
        if any(share < LEAST for _, share in shares(committed, rows)):
            rows = better(rows, side_by_side.run(name, rounds)["rows"])
        for title, share in shares(committed, rows):
            print(f"{name}, {title}: {share:.0%} of the committed ratio", flush=True)
            if share < LEAST:
                slower.append(f"{name}, {title}: {share:.0%}")
    print(f"{len(slower)} rows below {LEAST:.0%} of the committed ratio", *slower, sep="\n  ")
    return 1 if slower else 0


def shares(committed: Sequence[Row], rows: Sequence[Row]) -> list[tuple[str, float]]:
    """Title of each row with its ratio by the committed one; a row that is new has 1."""
    ratios = {_title(row): row["ratio"] for row in committed}
    return [(_title(row), row["ratio"] / ratios.get(_title(row), row["ratio"])) for row in rows]


def better(rows: Sequence[Row], again: Sequence[Row]) -> list[Row]:
    """The row of either run whose ratio is greater, row by row."""
    return [max(pair, key=lambda row: float(row["ratio"])) for pair in zip(rows, again, strict=True)]


def _title(row: Row) -> str:
    return f"{row['ours']} against {row['peer']}"
