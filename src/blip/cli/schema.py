"""`blip schema`: the JSON Schema of a record."""

from __future__ import annotations

import json
from typing import Annotated

from blip.cli.commands import argument, command
from blip_lite.errors import UsageError, did_you_mean


def record_names() -> tuple[str, ...]:
    """Return the names of records, for completion."""
    from blip.io.schemas import NAMES

    return NAMES


@command
def schema(
    name: Annotated[
        str | None, argument("[NAME]", help="caption, answer, match, ...; lists all if omitted.", complete=record_names)
    ] = None,
) -> int:
    """Print the JSON Schema of a record.

    Example: blip schema caption
    """
    from blip.io.schemas import NAMES
    from blip.io.schemas import schema as schema_of

    if name is None:
        print("\n".join(NAMES))
        return 0
    if name.removesuffix("/1") not in NAMES:
        raise UsageError(f"unknown record '{name}'{did_you_mean(name, NAMES)}; must be one of {', '.join(NAMES)}")
    print(json.dumps(schema_of(name.removesuffix("/1")), indent=2))
    return 0
