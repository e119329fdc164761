"""`blip models`: what there is, what is here, fetching, checking, importing, converting, comparing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.commands import OUTPUT, argument, command, group, option
from blip.cli.output import print_lines, print_table, progress_bar
from blip_lite.errors import BlipError, CheckpointError, UsageError

if TYPE_CHECKING:
    from blip.checkpoint.catalogue import Entry
    from blip.checkpoint.exchange import Comparison

Name = Annotated[str, argument("NAME", help="Model name; 'blip models' lists all.", complete=o.model_names)]
Names = Annotated[tuple[str, ...], argument("NAME...", help="Model names.", complete=o.model_names)]
Cached = Annotated[bool, option(help="Only models that work offline.")]


def list_models(cached: Cached = False, as_json: o.Json = False) -> int:
    """List all known models."""
    rows = [row for row in _rows() if not cached or row["cached"]]
    if as_json:
        print_lines(json.dumps(row, ensure_ascii=False) for row in rows)
        return 0
    columns = ("name", "family", "vit", "image_size", "cached", "scores")
    print_table(columns, [[_cell(row[key]) for key in columns] for row in rows])
    return 0


models = group(
    "models",
    "List, fetch, check, import, convert and compare models; without a command, list them.",
    default=command(list_models, "list"),
)


@models.subcommand("info")
def info(name: Name, as_json: o.Json = False) -> int:
    """Show what is known about a model."""
    from blip.checkpoint.locate import locate

    found = locate(name)
    entry = _entry(name)
    record: dict[str, Any] = {"name": name} if entry is None else _record(entry)
    record |= {"path": str(found.path) if found.path else None}
    if found.path is not None and found.path.is_dir():
        record |= {"config": json.loads((found.path / "config.json").read_text(encoding="utf-8"))}
    if as_json:
        print_lines([json.dumps(record, ensure_ascii=False)])
        return 0
    print_table(("field", "value"), [[key, _cell(value)] for key, value in record.items() if value not in (None, "")])
    return 0


@models.subcommand("get")
def get(names: Names, offline: o.OfflineOrOnline = None) -> int:
    """Download models into the cache, or check those that are there."""
    from blip.checkpoint.locate import locate, obtain

    for name in names:
        found = locate(name)
        if found.entry is not None and found.entry.source == "random":
            o.note(f"{name}: made of random numbers, nothing to fetch")
            continue
        path = obtain(found, offline=offline, progress=progress_bar(name))
        print_lines([str(path)])
    return 0


@models.subcommand("rm")
def remove(name: Name) -> int:
    """Remove a model from the cache, or an imported one."""
    import shutil

    from blip.checkpoint.locate import cached_entry, cached_url, imported, locate
    from blip.io import fetch

    folder = imported(name)
    if folder is not None:
        shutil.rmtree(folder)
        o.note(f"removed {folder}")
        return 0
    found = locate(name)
    if found.hub_id:
        raise UsageError(f"model '{name}' lies in the hub's own cache; 'hf cache rm model/{name}' removes it")
    if found.entry is not None and found.entry.source != "url":
        raise UsageError(f"model '{name}' is part of the package and cannot be removed")
    if found.entry is None and not found.url:
        raise UsageError(f"{name} is your own file; delete it yourself")
    path = cached_entry(found.entry) if found.entry is not None else cached_url(found.url)
    o.note(f"removed {name}, {fetch.remove(path) / 1e6:.1f} MB freed")
    return 0


@models.subcommand("path")
def path(name: Name) -> int:
    """Print where a model is stored; exit 3 if it is not on this machine."""
    from blip.checkpoint.locate import locate, obtain

    found = locate(name)
    print_lines([str(found.path if found.path is not None else obtain(found, offline=True))])
    return 0


@models.subcommand("verify")
def verify(
    names: Annotated[
        tuple[str, ...],
        argument("[NAME]...", help="Model names; without any, all on this machine.", complete=o.model_names),
    ],
) -> int:
    """Check the SHA-256 of downloaded files."""
    from blip.checkpoint.catalogue import find
    from blip.checkpoint.locate import cached_entry, locate
    from blip.io import fetch

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
            print_lines([f"{digest}  {name}"])
    return CheckpointError.exit_code if failed else 0


@models.subcommand("import")
def import_file(
    source: Annotated[Path, argument("FILE", help="Weights file or model folder of any layout.")],
    name: Annotated[str | None, option("--as", help="Its name.", default="the file's")] = None,
) -> int:
    """Copy a model of your own into the registry under a name."""
    from blip.checkpoint.exchange import import_model

    folder = import_model(source, name)
    o.note(f"imported; use it with -m {folder.name}")
    print_lines([str(folder)])
    return 0


@models.subcommand("convert")
def convert(
    *,
    source: Annotated[str, argument("MODEL", help="Model name, file or folder.", complete=o.model_names)],
    to: Annotated[
        Literal["blip", "hf", "original"], option(metavar="LAYOUT", help="Layout to write: blip, hf or original.")
    ] = "blip",
    int8: Annotated[bool, option(help="8-bit weights, a quarter of the size (--to blip).")] = False,
    output: Annotated[
        Path, option("-o", "--output", metavar="PATH", group=OUTPUT, help="Folder; .pth file for --to original.")
    ],
    overwrite: o.Overwrite = False,
) -> int:
    """Write a model in another layout."""
    from blip.checkpoint import exchange

    config = exchange.convert(source, output, to, int8=int8, overwrite=overwrite)
    o.note(f"wrote a '{config.family}' model, {config.vision.image_size} px")
    print_lines([str(output)])
    return 0


@models.subcommand("diff")
def diff(
    first: Annotated[str, argument("A", help="Model name, file or folder.", complete=o.model_names)],
    second: Annotated[str, argument("B", help="Model name, file or folder.", complete=o.model_names)],
) -> int:
    """Compare two models: config, names, shapes, values. Exit 1 when they differ."""
    from blip.checkpoint.exchange import compare

    result = compare(first, second)
    print_table(("what", "where", "A", "B"), list(_differences(result)))
    o.note(f"{result.equal} tensors equal, {len(result.values)} differ" + ("; same model" if result.same else ""))
    return 0 if result.same else 1


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
