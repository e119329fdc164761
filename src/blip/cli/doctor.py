"""`blip doctor`: report what is installed and missing, check captions, and suggest a command."""

from __future__ import annotations

import json
from typing import Annotated

from blip.cli import options as o
from blip.cli.commands import command, option
from blip.cli.output import print_lines


@command
def doctor(
    as_json: Annotated[bool, option("--json", help="Print one JSON object.")] = False,
    bench: Annotated[bool, option(help="Also measure images per second of the bundled model.")] = False,
) -> int:
    """Report what is installed and missing, check captions, and suggest a command.

    Example: blip doctor
    """
    from blip.apps.doctor.report import make_report

    report, broken = make_report(bench=bench)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for part, values in report.items():
            if values and part != "next":
                print_lines([part, *(f"  {name:<18}{value}" for name, value in values.items())])
        print(f"\nnext: {report['next']['command']}")
    if broken:
        o.note(f"blip: error: model '{broken[0]}' does not work: {report['checks'][broken[0]]}", quiet=False)
    return 4 if broken else 0
