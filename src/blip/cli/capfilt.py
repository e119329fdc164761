"""`blip capfilt`: caption images, score texts, select pairs that match, and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from blip.cli import options as o
from blip.cli.capfilt_report import note_page, report
from blip.cli.capfilt_run import RunFlags, run
from blip.cli.capfilt_select import report as report_selection
from blip.cli.capfilt_select import select
from blip.cli.commands import OUTPUT, BareGroup, argument, command, option
from blip.cli.output import print_table


def everything(
    *,
    flags: RunFlags,
    overwrite: Annotated[bool, option(group=OUTPUT, help="Replace an earlier selection; scores are kept.")] = False,
) -> int:
    """Turn noisy image-text data into a better training set: run, select and report with their defaults.

    A second run with the same flags continues an interrupted one. Example: blip capfilt photos.jsonl -o clean/
    """
    from blip import capfilt
    from blip.capfilt.report.write import PAGE
    from blip.capfilt.selection import require_replaceable

    require_replaceable(flags.output, overwrite)  # before hours of scoring
    code = run(flags=flags)
    try:
        selected = capfilt.select([flags.output], overwrite=overwrite, on_failure=lambda error: o.note(str(error)))
    finally:  # also if no text passes
        capfilt.report(flags.output)
        note_page(flags.output / PAGE, flags.quiet)
    return max(code, report_selection(selected, flags.quiet))


def status(
    *,
    scores: Annotated[Path, argument("OUT", help="Folder that 'blip capfilt run' has written.")],
    quiet: o.Quiet = False,
) -> int:
    """Count the shards that are done and missing.

    Also counts the images and texts of those that are done. Exits with 1 while shards are missing.
    """
    from blip.capfilt.status import status as count

    state = count(scores)
    counts = state.counts
    texts = [(f"{kind} texts", f"{number:,}") for kind, number in counts.texts.items()]
    kept = [(f"{kind} kept at 0.5", f"{number / counts.texts[kind]:.1%}") for kind, number in counts.kept.items()]
    rows = [
        ("shards done", f"{state.done:,}"),
        ("shards missing", f"{len(state.missing):,}"),
        ("images", f"{counts.images:,}"),
        *texts,
        *kept,
        ("failed", f"{sum(counts.errors.values()):,}"),
        *((f"failed: {reason}", f"{number:,}") for reason, number in counts.errors.most_common()),
    ]
    print_table(("what", "count"), rows)
    if state.missing:
        first = ", ".join(unit.source for unit in state.missing[:3]) + (", …" if len(state.missing) > 3 else "")
        o.note(f"missing: {first}; the command that started the run continues it", quiet)
    return 1 if state.missing else 0


capfilt = BareGroup(command(everything, "capfilt"))
for function in (run, select, report, status):
    capfilt.add_command(command(function))
