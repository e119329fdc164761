"""Parts of files that quote the bundled models, between two comments; `make renew` writes them again.

    CIDEr <!-- quote tiny-cider -->0.520<!-- /quote -->

A part that starts on a new line is a block (a table); any other stays within its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MARKED = re.compile(r"<!-- quote ([a-z0-9-]+) -->(.*?)<!-- /quote -->", re.DOTALL)
Values = Mapping[str, Callable[[], str]]


def renew_text(text: str, values: Values) -> str:
    """Return a text with the present value in every marked part. Raises KeyError for an unknown name."""

    def replace(match: re.Match[str]) -> str:
        value = values[match[1]]()
        content = f"\n\n{value}\n\n" if match[2].startswith("\n") else value
        return f"<!-- quote {match[1]} -->{content}<!-- /quote -->"

    return MARKED.sub(replace, text)


def without_marked(text: str) -> str:
    """Return a text without its marked parts."""
    return MARKED.sub("", text)


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table; the first row is the head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "| --- " * len(rows[0]) + "|", *body])
