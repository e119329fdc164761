"""Example images of a report, each with its texts and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from blip.capfilt.report.examples import Example, Group, Text
from blip.capfilt.report.markup import decimal, paragraph, shorten
from blip.capfilt.report.summary import Summary
from blip.capfilt.sources import ImageLocator, read_unchanged
from blip.io.html_page import inline_jpeg
from blip_lite.errors import BlipError
from blip_lite.image import read

Name = tuple[str, str]  # of an image: its shard and key
STYLE = """
.cards { grid-template-columns: repeat(auto-fill, minmax(155px, 1fr)); gap: .8rem } .card img { height: 130px }
.card ul { list-style: none; margin: .5rem .6rem 0; padding: 0; font-size: 14px; line-height: 1.4 }
.card li { overflow-wrap: anywhere }
.card li + li { border-top: 1px solid var(--line); margin-top: .5rem; padding-top: .4rem }
.card li.chosen { font-weight: 600 } .card small { display: block; font-weight: 400; font-size: 12px }
.card .kept { color: var(--kept); font-weight: 600 } .card .wrong { color: var(--other); font-weight: 600 }
"""
TITLES: dict[Group, str] = {
    "kept": "Kept {kind} texts, drawn at random",
    "near": "{kind} texts nearest to the threshold",
    "dropped": "Dropped {kind} texts, drawn at random",
}


def section(summary: Summary, locate: ImageLocator) -> str:
    """Return the examples; images that cannot be read are left out with one note."""
    groups = {key: examples for key, examples in summary.examples.items() if examples}
    if not groups:
        return ""
    pictures, note = _pictures([example for examples in groups.values() for example in examples], locate)
    parts = (
        f"<h3>{escape(_title(*key))}</h3><div class=cards>{''.join(_card(e, pictures) for e in examples)}</div>"
        for key, examples in groups.items()
    )
    return f"<h2>Examples</h2>{note}{''.join(parts)}"


def _pictures(examples: Sequence[Example], locate: ImageLocator) -> tuple[dict[Name, str], str]:
    """Return the pictures that can be read, by shard and key, and a note about the others."""
    locations = {_name(example): example.location for example in examples}
    pictures: dict[Name, str] = {}
    problems = []
    for name in sorted(locations, key=lambda name: (name[0], locations[name]["row"] or 0)):  # a table is read once
        try:
            ref = locate(locations[name])
            pictures[name] = inline_jpeg(read(read_unchanged(locations[name], ref), key=ref.name))
        except BlipError as error:
            problems.append(str(error))
    if not problems:
        return pictures, ""
    return pictures, paragraph(f"{len(problems)} of {len(locations)} images cannot be read, such as {problems[0]}")


def _name(example: Example) -> Name:
    return example.location["shard"], example.location["key"]


def _title(kind: str, group: Group) -> str:
    title = TITLES[group].format(kind=kind)
    return title[0].upper() + title[1:]


def _card(example: Example, pictures: Mapping[Name, str]) -> str:
    texts = _text(example.chosen, "chosen") + "".join(_text(text) for text in example.others)
    return f"<div class=card>{pictures.get(_name(example), '')}<ul>{texts}</ul></div>"


def _text(text: Text, style: str = "other") -> str:
    result = "kept" if text.kept else "dropped"
    truth = "" if text.truth is None else f", {'true' if text.truth else 'false'}"
    colour = "wrong" if text.truth not in (None, text.kept) else result
    note = f"<small>{escape(text.kind)}, <span class={colour}>{result}{truth}</span></small>"
    scores = "" if text.itm is None else f"<small>ITM {decimal(text.itm)}, ITC {decimal(text.itc)}</small>"
    return f"<li class={style}>{escape(shorten(text.text))}{note}{scores}</li>"
