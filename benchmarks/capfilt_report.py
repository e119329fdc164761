"""The section on CapFilt in RESULTS.md."""

from __future__ import annotations

from typing import Any

from benchmarks.capfilt import COUNT

INTRO = """## CapFilt

Every photo gets a text by nucleus sampling; this and its web text are scored by ITM and ITC. The table of all cases
compares that with `transformers` on {count} photos: texts of 20 ids, forced; random captions have many rare pieces, so
they are longer texts for the filter than real ones. "Documented calls" are those of the model cards, timed on one photo
of {count}; they encode a photo five times. `tiny` has a convolutional stem, for which Transformers has no class.

Below: whole runs of `blip capfilt run` on {photos} in tars, with one web text each, on one
thread; medians of rounds in turn. Command: `OMP_NUM_THREADS=1 python -m benchmarks.capfilt_run --data TAR...`.
*Photos/s*: by processor time, without start and loading of models ({start}); *wall*: by the clock, which other
work on the machine disturbs, with both. *Share of limit*: operations of matrix products and convolutions at
{gflops:.0f} GFLOP/s (packed f32), by the time of encode, caption and score.
"""


def section(values: dict[str, Any], compared: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the section; `compared` are the rows of the case, `values` those of `capfilt_run`."""
    if not values:
        return []
    runs = values["runs"]
    starts = [row["start_s"] for row in runs]
    start = f"{min(starts):.1f} to {max(starts):.1f} s"
    lines = INTRO.format(count=COUNT, photos=values["photos"], gflops=values["gflops"], start=start).split("\n")
    lines += ["| photos per processor second | ours | peer | ratio |", "|---" * 4 + "|"]
    for row in compared:
        ours, peer, ratio = COUNT / row["ours_s"], COUNT / row["peer_s"], row["ratio"]
        lines.append(f"| {row['ours']}; peer {row['peer']} | {ours:.3f} | {peer:.3f} | **{ratio:.2f}** |")
    lines += ["", "| run | photos, rounds | photos/s | wall | share of limit | GFLOP per photo | peak, MB |"]
    lines.append("|---" * 7 + "|")
    for row in runs:
        lines.append(
            f"| {row['run']} | {row['photos']}, {row['rounds']} | {row['per_processor_s']:.2f} | "
            f"{row['per_wall_s']:.2f} | {row['share']:.0%} | {row['gflop']:.1f} | {row['peak_mb']:.0f} |"
        )
    columns = list(runs[0]["ms"])
    lines += ["", "Milliseconds per photo of each part:", "", f"| run | {' | '.join(columns)} | sum |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for row in runs:
        cells = " | ".join(f"{row['ms'][c]:.1f}" for c in columns)
        lines.append(f"| {row['run']} | {cells} | {sum(row['ms'].values()):.1f} |")
    shards = (f"{row['photos']} photos in {row['shards']} tars: {row['peak_mb']:.0f}" for row in values["shards"])
    lines += ["", f"Peak memory with `tiny`, batch 8, MB: {'; '.join(shards)}."]
    return lines
