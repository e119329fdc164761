"""Measured values kept as JSON, shown as a table. Cases run again replace their rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import capfilt_report, folder, memory, threads
from benchmarks.side_by_side import CASES

FOLDER = Path(__file__).parent
VALUES, TABLE = FOLDER / "results.json", FOLDER / "RESULTS.md"

INTRO = """# Benchmarks

Ours and the BLIP classes of `transformers` side by side in one process: ViT-B at full size, the same random weights,
the example photos; outputs are compared before anything is timed. float32 has to give equal ids (texts of forced
length, 20 tokens a caption), logits within 1e-4, vectors within 1e-5, losses within 1e-5; for bfloat16 and 8 bits the
agreement is stated. `make bench-check` fails if a ratio falls below 90 % of the one here.

- *s* and *ratio*: processor seconds of one thread, and the peer's by ours: median of rounds run in turn (least and
  largest of a round). *wall*: the same ratio by the clock, which other work on the machine disturbs.
- *share of limit*: what the arithmetic and the reading of weights would take at the machine's best, by our time. The
  best is measured in the same run: a matrix product of 577x768x3072 on packed weights, a sum over 256 MB.
- The peer has its best call: evaluation mode, `inference_mode`, its cache, for ITM the photo's states broadcast. It has
  eager attention only. "States repeated" is how the original re-ranks; 8 texts of 128 are timed, without vision.
- Training: each side in a process of its own. Ours has glibc's malloc tuned, as `blip train` does; the peer is measured
  without and with that. Both have torch's fused AdamW.
- Ranking has no peer: "as the original ranks" is our model used its way, 8 rows of 176 timed. Neither side's time has
  vision in it; `python -m benchmarks.retrieval` runs all rows, with vision, or the same on photos of one's own.
- GPU: nothing is measured yet. `python -m benchmarks gpu` checks one against the CPU, then prints its table.
"""


def read() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(VALUES.read_text()) if VALUES.exists() else {}
    return {"machine": {}, "cases": {}, "parts": {}, "threads": {}, "folder": {}, "memory": {}, "capfilt": {}} | values


def write(values: dict[str, Any]) -> None:
    values["cases"] = {name: values["cases"][name] for name in CASES if name in values["cases"]}
    VALUES.write_text(json.dumps(values, indent=1) + "\n")
    TABLE.write_text(_table(values))


def _table(values: dict[str, Any]) -> str:
    lines = [INTRO, "Command: `OMP_NUM_THREADS=1 python -m benchmarks [NAME...]`", ""]
    lines += [f"- {key}: {value}" for key, value in values["machine"].items()]
    lines += ["", "| case | ours | s | peer | s | ratio | wall | share of limit | outputs |", "|---" * 9 + "|"]
    for case in values["cases"].values():
        lines += [_row(case["title"], row) for row in case["rows"]]
    lines += ["", "Limits measured beside each case, and how many processes wanted a core (load):", ""]
    lines += ["| case | plain f32 | packed f32 | packed bf16, GFLOP/s | read, GB/s | load | commit |", "|---" * 7 + "|"]
    for case in values["cases"].values():
        limits = " | ".join(f"{case['limits'][k] / 1e9:.0f}" for k in ("plain", "float32", "bfloat16", "read"))
        lines.append(f"| {case['title']} | {limits} | {case['load']:.1f} | {case['commit']} |")
    lines += ["", *threads.section(values["threads"])]
    lines += ["", *_parts(values["parts"])]
    lines += ["", *folder.section(values["folder"])]
    lines += ["", *memory.section(values["memory"])]
    lines += ["", *capfilt_report.section(values["capfilt"], values["cases"].get("capfilt", {"rows": []})["rows"])]
    return "\n".join(lines).rstrip() + "\n"


def _row(title: str, row: dict[str, Any]) -> str:
    share = f"{row['share']:.0%}" if row["share"] else ""
    wall = "" if row["wall"] is None else f"{row['wall']:.2f}"
    ratio = f"**{row['ratio']:.2f}** ({row['low']:.2f}-{row['high']:.2f})"
    return (
        f"| {title} | {row['ours']} | {row['ours_s']:.2f} | {row['peer']} | {row['peer_s']:.2f} | {ratio} | "
        f"{wall} | {share} | {row['remark']} |"
    )


def _parts(tables: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = [
        "## Where the time goes",
        "",
        "Milliseconds of processor time, one thread, medians of 3 runs; beam 3, 20 tokens.",
    ]
    lines += ["Command: `OMP_NUM_THREADS=1 python -m benchmarks parts`"]
    for title, rows in tables.items():
        columns = list(next(iter(rows.values())))
        lines += ["", f"| {title} | {' | '.join(columns)} | sum |", "|---" * (len(columns) + 2) + "|"]
        for name, values in rows.items():
            cells = " | ".join(f"{values[c]:.0f}" for c in columns)
            lines.append(f"| {name} | {cells} | {sum(values.values()):.0f} |")
    return lines if tables else []
