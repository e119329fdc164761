"""Generated parts of the documentation: options of every command, tables of models and presets, the layer diagram.

MkDocs calls the `on_...` functions: marks in pages are replaced while the site is built. The diagram is a file, so that
it also shows in a checkout: `python docs/_generate.py` writes it again after the import contract has changed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
DIAGRAM = DOCS / "architecture.svg"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the marks of a page by generated Markdown."""
    return MARK.sub(lambda mark: GENERATORS[mark[1]](*mark[2].split()), markdown)


# Commands -------------------------------------------------------------------------------------------------------------


def command_list() -> str:
    from blip.cli import VERBS

    rows = [f"| [`blip {verb}`]({page_name(verb)}) | {text} |" for verb, text in VERBS.items()]
    return "\n".join(["| command | purpose |", "| --- | --- |", *rows])


def page_name(verb: str) -> str:
    """File of a command's page: `index.md` is the list of commands, so `blip index` has another name."""
    return "index-verb.md" if verb == "index" else f"{verb}.md"


def options_of(verb: str) -> str:
    """Options of a command in one table per group; of a command with subcommands, one table per subcommand."""
    parts = []
    for name, command in commands(verb):
        groups = option_groups(command)
        if name == f"blip {verb}":
            for group, rows in groups.items():
                parts += [f"## {group} options", "", *OPTION_HEAD, *rows, ""]
        else:
            rows = [row for rows in groups.values() for row in rows if "`--debug`" not in row]
            parts += [f"## {name}", "", command.get_short_help_str(limit=200), "", *OPTION_HEAD, *rows, ""]
    return "\n".join(parts)


OPTION_HEAD = ("| option | meaning |", "| --- | --- |")


def option_groups(command: click.Command) -> dict[str, list[str]]:
    """Table rows of a command's options by group, in the order of the help."""
    from blip.cli.commands import LAST_GROUPS, TASK

    context = click.Context(command)
    groups: dict[str, list[str]] = {TASK: []}
    for parameter in command.params:
        if record := parameter.get_help_record(context):
            groups.setdefault(getattr(parameter, "group", TASK), []).append(option_row(*record))
    order = [name for name in groups if name not in LAST_GROUPS] + list(LAST_GROUPS)
    return {name: groups[name] for name in order if groups.get(name)}


def commands(verb: str) -> Iterator[tuple[str, click.Command]]:
    """Name and click command of a verb itself, if it has one, and of each of its subcommands."""
    from blip.cli.commands import BareGroup
    from blip.cli.run import verb_command

    command = verb_command(verb)
    if not isinstance(command, click.Group):
        yield f"blip {verb}", command
        return
    if isinstance(command, BareGroup):
        yield f"blip {verb}", command.bare
    for name, subcommand in command.commands.items():
        yield f"blip {verb} {name}", subcommand


def option_row(names: str, meaning: str) -> str:
    return f"| `{names.strip()}` | {escape_cell(meaning)} |"


def escape_cell(text: str) -> str:
    return re.sub(r"\s+", " ", escape(text, quote=False)).replace("|", "\\|").replace("*", "\\*").replace("[", "\\[")


# Tables ---------------------------------------------------------------------------------------------------------------


def models_table() -> str:
    """The catalogue: name, purpose, sizes, training data, published scores."""
    from blip.checkpoint.catalogue import ENTRIES

    rows = ["| name | family | ViT | pixels | trained on | published scores | licence |", "| --- " * 7 + "|"]
    for entry in ENTRIES:
        rows.append(
            f"| `{entry.name}` | {entry.family} | {entry.vit} | {entry.image_size} | {entry.data} "
            f"| {entry.scores} | {entry.licence} |"
        )
    return "\n".join(rows)


def tasks_table() -> str:
    from blip.tasks import TASKS, task_class

    rows = [(name, task_class(name).info) for name in TASKS]
    lines = [f"| `{name}` | {info.description} | {info.columns} | `blip {info.usage}` |" for name, info in rows]
    return "\n".join(["| task | learns to | columns of the data | used by |", "| --- | --- | --- | --- |", *lines])


def presets_table() -> str:
    from blip.tasks.presets import PRESETS

    rows = [f"| `{name}` | {preset.task} | {preset.doc} |" for name, preset in PRESETS.items()]
    return "\n".join(["| preset | task | description |", "| --- | --- | --- |", *rows])


GENERATORS: dict[str, Callable[..., str]] = {
    "list of commands": command_list,
    "options of": options_of,
    "table of models": models_table,
    "table of tasks": tasks_table,
    "table of presets": presets_table,
}
MARK = re.compile(f"<!-- ({'|'.join(GENERATORS)}) ?([a-z]*) -->")


# The layer diagram ----------------------------------------------------------------------------------------------------

PURPOSES = {
    "cli": "the commands",
    "apps": "server, web page, photo search, export",
    "capfilt": "caption, score, select",
    "engine": "work on shards",
    "train": "the training loop",
    "api": "blip.load, the catalogue",
    "tasks": "what to train",
    "eval": "predict, score, report",
    "torch_backend": "Model on torch",
    "heatmaps": "Grad-CAM, attention",
    "inference": "tensors to results",
    "data": "datasets, augmentation",
    "metrics": "CIDEr, BLEU, VQA",
    "checkpoint": "weights and their layouts",
    "tokenizer": "texts to tensors",
    "io": "files, shards, URLs, records",
    "model": "the network",
    "distributed": "process groups",
    "runtime": "device, dtype, threads",
    "signals": "SIGTERM, Ctrl-C",
    "blip_lite": "without torch: images, tokenizer, decoding, results, Model over a Backend, the ONNX backend",
}
WIDTH, ROW, GAP, MARGIN = 860, 46, 12, 16
STYLE = (
    "text{font-family:Helvetica,Arial,sans-serif;fill:#1b1f24}.name{font-size:14px;font-weight:600}"
    ".purpose{font-size:11px}.package{font-size:12px;font-weight:600;fill:#57606a}"
)


def diagram() -> str:
    """SVG of the layers of the import contract in pyproject.toml: every import points down."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c.get("containers") == ["blip"])
    layers = [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    top = MARGIN + 28
    shapes = []
    for i, layer in enumerate(layers):
        shapes += boxes(layer, top + i * (ROW + GAP), "#ddf4ff")
    bottom = top + len(layers) * (ROW + GAP)
    shapes += boxes(["blip_lite"], bottom + 34, "#dafbe1")
    height = bottom + 34 + ROW + MARGIN
    arrow = WIDTH - MARGIN / 2 + 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
            ' aria-label="Layers of the packages blip and blip_lite; imports point down">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text class="package" x="{MARGIN}" y="{MARGIN + 12}">blip (distribution blip-vlm)</text>',
            *shapes,
            f'<text class="package" x="{MARGIN}" y="{bottom + 24}">blip_lite (distribution blip-vlm-lite)</text>',
            f'<path d="M{arrow} {top}V{height - MARGIN - 6}m-4 -6l4 8l4 -8" fill="none" stroke="#57606a"/>',
            "</svg>",
            "",
        ]
    )


def boxes(names: list[str], y: float, fill: str) -> Iterator[str]:
    """One row of the diagram: boxes of equal width."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(names) - 1) - 10) / len(names)
    for i, name in enumerate(names):
        x = MARGIN + i * (width + GAP)
        center = f"{x + width / 2:.0f}"
        yield f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{ROW}" rx="5" fill="{fill}" stroke="#8c959f"/>'
        yield f'<text class="name" x="{center}" y="{y + 20}" text-anchor="middle">{name}</text>'
        yield f'<text class="purpose" x="{center}" y="{y + 36}" text-anchor="middle">{escape(PURPOSES[name])}</text>'


if __name__ == "__main__":
    DIAGRAM.write_text(diagram(), encoding="utf-8")
    print(f"wrote {DIAGRAM}")
