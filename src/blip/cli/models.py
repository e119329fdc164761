"""`blip models`: what there is, what is here, fetching, checking, importing, converting, comparing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blip.cli import options as o
from blip.cli.output import lines, progress_bar, table

if TYPE_CHECKING:
    from blip.checkpoint.catalogue import Entry
    from blip.checkpoint.exchange import Comparison

app = typer.Typer(help="List, fetch, check, import, convert and compare models.", no_args_is_help=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model's name; 'blip models' lists all.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of models.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON record per line.")]
Offline = Annotated[bool | None, typer.Option("--offline/--online", help="Never open a socket.", show_default=False)]
Cached = Annotated[bool, typer.Option("--cached", help="Only what works offline.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, cached: Cached = False, as_json: Json = False) -> None:
    """List, fetch, check, import, convert and compare models."""
    if context.invoked_subcommand is None:
        list_models(cached, as_json)


@app.command("list")
def list_models(cached: Cached = False, as_json: Json = False) -> None:
    """List all known models."""
    rows = [row for row in _rows() if not cached or row["cached"]]
    if as_json:
        lines(json.dumps(row, ensure_ascii=False) for row in rows)
        return
    columns = ("name", "family", "vit", "image_size", "cached", "scores")
    table(columns, [[_cell(row[key]) for key in columns] for row in rows])


@app.command("info")
def info(name: Name, as_json: Json = False) -> None:
    """Show what is known about a model."""
    from blip.checkpoint.locate import locate

    found = locate(name)
    entry = _entry(name)
    record: dict[str, Any] = {"name": name} if entry is None else _record(entry)
    record |= {"path": str(found.path) if found.path else None}
    if found.path is not None and found.path.is_dir():
        record |= {"config": json.loads((found.path / "config.json").read_text(encoding="utf-8"))}
    if as_json:
        lines([json.dumps(record, ensure_ascii=False)])
        return
    table(("field", "value"), [[key, _cell(value)] for key, value in record.items() if value not in (None, "")])


@app.command("get")
def get(names: Names, offline: Offline = None) -> None:
    """Download models into the cache, or check those that are there."""
    from blip.checkpoint.locate import locate, obtain

    for name in names:
        found = locate(name)
        if found.entry is not None and found.entry.source == "random":
            o.note(f"{name}: made of random numbers, nothing to fetch")
            continue
        path = obtain(found, offline=offline, progress=progress_bar(name))
        typer.echo(str(path))


@app.command("rm")
def remove(name: Name) -> None:
    """Remove a model from the cache, or an imported one."""
    import shutil

    from blip.checkpoint.locate import cached_entry, cached_url, imported, locate
    from blip.io import fetch
    from blip_lite.errors import UsageError

    folder = imported(name)
    if folder is not None:
        shutil.rmtree(folder)
        o.note(f"removed {folder}")
        return
    found = locate(name)
    if found.hub_id:
        raise UsageError(f"model '{name}' lies in the hub's own cache; 'hf cache rm model/{name}' removes it")
    if found.entry is not None and found.entry.source != "url":
        raise UsageError(f"model '{name}' is part of the package and cannot be removed")
    if found.entry is None and not found.url:
        raise UsageError(f"{name} is your own file; delete it yourself")
    path = cached_entry(found.entry) if found.entry is not None else cached_url(found.url)
    o.note(f"removed {name}, {fetch.remove(path) / 1e6:.1f} MB freed")


@app.command("path")
def path(name: Name) -> None:
    """Print where a model lies; an error if it is not here."""
    from blip.checkpoint.locate import locate, obtain

    found = locate(name)
    typer.echo(str(found.path if found.path is not None else obtain(found, offline=True)))


@app.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Default: all that are here.")] = None,
) -> None:
    """Check the SHA-256 of downloaded files."""
    from blip.checkpoint.catalogue import find
    from blip.checkpoint.locate import cached_entry, locate
    from blip.io import fetch
    from blip_lite.errors import BlipError, CheckpointError

    failed = 0
    for name in names or [row["name"] for row in _rows() if row["cached"] and row["source"] == "url"]:
        found = locate(name)
        if found.hub_id or (found.entry is not None and found.entry.source == "random"):
            why = ", the hub's cache keeps its own hashes" if found.hub_id else ""
            o.note(f"{name}: nothing to check here{why}")
            continue
        try:
            if found.path is None:
                raise CheckpointError(f"model '{name}' is not cached; 'blip models get {name}' fetches it")
            if found.path.is_dir():
                digest = fetch.verify(found.path / "model.safetensors")
            else:
                entry = find(name) if found.entry is not None else None
                digest = fetch.verify(cached_entry(entry) if entry else found.path, entry.sha256 if entry else None)
        except BlipError as error:
            o.note(str(error))
            failed += 1
        else:
            typer.echo(f"{digest}  {name}")
    if failed:
        raise typer.Exit(CheckpointError.exit_code)


@app.command("import")
def import_file(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A weights file or model folder of any layout.")],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Its name; default: the file's.")] = None,
) -> None:
    """Take a model of your own into the registry, so that it has a name."""
    from blip.checkpoint.exchange import import_model

    folder = import_model(source, name)
    o.note(f"imported; use it with -m {folder.name}")
    typer.echo(str(folder))


@app.command("convert")
def convert(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A weights file, model folder or name.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder; a .pth file for --to original.")],
    to: Annotated[str, typer.Option("--to", metavar="blip|hf|original", help="The layout to write.")] = "blip",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights, a quarter of the size (--to blip).")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model in another layout."""
    from blip.checkpoint import exchange

    config = exchange.convert(source, output, to, int8=int8, overwrite=overwrite)  # type: ignore[arg-type]
    o.note(f"wrote a '{config.family}' model, {config.vision.image_size} px")
    typer.echo(str(output))


@app.command("diff")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A name, file or folder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="A name, file or folder.")],
) -> None:
    """Compare two models: config, names, shapes, values. Exit 1 when they differ."""
    from blip.checkpoint.exchange import compare

    result = compare(first, second)
    table(("what", "where", "A", "B"), list(_differences(result)))
    o.note(f"{result.equal} tensors equal, {len(result.values)} differ" + ("; same model" if result.same else ""))
    if not result.same:
        raise typer.Exit(1)


def _differences(result: Comparison) -> Iterable[list[str]]:
    for key, (a, b) in result.config.items():
        yield ["config", key, str(a), str(b)]
    yield from (["missing", name, "there", "-"] for name in result.only_first)
    yield from (["missing", name, "-", "there"] for name in result.only_second)
    for name, (one, other) in result.shapes.items():
        yield ["shape", name, str(one), str(other)]
    for name, value in sorted(result.values.items(), key=lambda item: -item[1]):
        yield ["values", name, "max difference", f"{value:.3g}"]


def _rows() -> list[dict[str, Any]]:
    """Records of the catalogue and of imported models."""
    from blip.checkpoint.catalogue import ENTRIES
    from blip.checkpoint.locate import imported_dir

    rows = [_record(entry) for entry in ENTRIES]
    folders = sorted(imported_dir().glob("*/config.json"))
    for config_path in folders:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        rows.append(
            {
                "name": config_path.parent.name,
                "family": config["family"],
                "vit": "",
                "scores": "",
                "image_size": config["vision"]["image_size"],
                "source": "imported",
                "cached": True,
            }
        )
    return rows


def _record(entry: Entry) -> dict[str, Any]:
    from blip.checkpoint.locate import is_cached

    return {
        "name": entry.name,
        "family": entry.family,
        "vit": entry.vit,
        "image_size": entry.image_size,
        "source": entry.source,
        "location": entry.location,
        "data": entry.data,
        "scores": entry.scores,
        "licence": entry.licence,
        "sha256": entry.sha256,
        "note": entry.note,
        "cached": is_cached(entry),
    }


def _entry(name: str) -> Entry | None:
    from blip.checkpoint.locate import locate

    return locate(name).entry


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return " ".join(text.split())
