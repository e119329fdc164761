"""What the site says of the program, asked of the program: every verb's help, the table of models, the presets.

MkDocs calls the `on_...` functions. Pages of commands exist only in the built site; the other two replace a mark in a
page that is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from blip.cli import VERBS
from blip.cli.run import verb_command

WIDTH = 78  # what a column of the site shows without scrolling
DECISIONS = Path(__file__).parent / "decisions"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts a page for every verb, and the decisions, into the navigation: none can be forgotten."""
    commands = [{verb: f"commands/{page_name(verb)}"} for verb in VERBS]
    choices = [f"decisions/{path.name}" for path in sorted(DECISIONS.glob("*.md"))]
    assert config.nav is not None
    config.nav += [{"Commands": ["commands/index.md", *commands]}, {"Decisions": choices}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"index.md": overview(), **{page_name(verb): command_page(verb) for verb in VERBS}}
    for name, text in pages.items():
        files.append(File.generated(config, f"commands/{name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    for mark, make in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def page_name(verb: str) -> str:
    """`index` is the name of the section's own page."""
    return "index-verb.md" if verb == "index" else f"{verb}.md"


def overview() -> str:
    rows = [f"| [`blip {verb}`]({page_name(verb)}) | {text} |" for verb, text in VERBS.items()]
    return "\n".join(["# Commands", "", "| command | what it does |", "| --- | --- |", *rows, ""])


def command_page(verb: str) -> str:
    """A page with the help of a verb and of the commands below it."""
    parts = [f"# blip {verb}", "", f"{VERBS[verb].capitalize()}.", ""]
    for name, text in helps(verb):
        parts += [f"## {name}", "", "```text", text, "```", ""]
    return "\n".join(parts)


def helps(verb: str) -> Iterator[tuple[str, str]]:
    """Name and `--help` of a verb and of the commands below it,"""
    name = f"blip {verb}"
    command: Any = verb_command(verb)
    with command.make_context(name, [], resilient_parsing=True, terminal_width=WIDTH) as context:
        yield name, _tidy(command.get_help(context))
        for below, child in getattr(command, "commands", {}).items():
            with child.make_context(below, [], parent=context, resilient_parsing=True) as inner:
                yield f"{name} {below}", _tidy(child.get_help(inner))


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def models_table() -> str:
    """The catalogue: name, what it is for, sizes, data, the scores that its authors published."""
    from blip.checkpoint.catalogue import ENTRIES

    rows = ["| name | family | ViT | pixels | trained on | published scores | licence |", "| --- " * 7 + "|"]
    for entry in ENTRIES:
        rows.append(
            f"| `{entry.name}` | {entry.family} | {entry.vit} | {entry.image_size} | {entry.data} "
            f"| {entry.scores} | {entry.licence} |"
        )
    return "\n".join(rows)


def presets_table() -> str:
    from blip.tasks.presets import PRESETS

    rows = [f"| `{name}` | {preset.task} | {preset.doc} |" for name, preset in PRESETS.items()]
    return "\n".join(["| preset | task | what it is |", "| --- | --- | --- |", *rows])


MARKS = {"<!-- table of models -->": models_table, "<!-- table of presets -->": presets_table}
