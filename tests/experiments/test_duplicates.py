"""The published precision and recall of the search for duplicates are those that were measured."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_show_the_measurement() -> None:
    measured = json.loads((ROOT / "experiments" / "duplicates" / "tiny.json").read_text())
    expected = [
        f"| {kind} | {100 * row['found']:.1f} % | {row['wrong']} | "
        + (", ".join(f"{bits:.0f}" for bits in measured["bits"][kind][:3]) + " |" if title == "copies" else "|")
        for title in ("copies", "near misses")
        for kind, row in measured[title].items()
    ]
    section = (ROOT / "docs" / "measurements.md").read_text().partition("## Duplicates")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if " % | " in line] == expected
    assert measured["count"] == 1000 and measured["originals"] == [] and len(measured["frames"]) == 1
