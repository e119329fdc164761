"""`blip models`: list, fetch, check, import, convert and compare models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.commands import OUTPUT, argument, command, group, option
from blip.cli.output import print_lines, print_table, progress_bar
from blip.io.fetch import is_offline
from blip_lite.errors import BlipError, CheckpointError, EnvironmentProblem, OfflineError

if TYPE_CHECKING:
    from blip.checkpoint.exchange import Comparison

Name = Annotated[str, argument("NAME", help="Model name; 'blip models' lists all.", complete=o.model_names)]


def list_models(
    cached: Annotated[bool, option(help="Only models that work offline.")] = False, as_json: o.Json = False
) -> int:
    """List all known models."""
    from blip.checkpoint.registry import list_records

    records = [record for record in list_records() if not cached or record["cached"]]
    if as_json:
        print_lines(json.dumps(record, ensure_ascii=False) for record in records)
        return 0
    columns = ("name", "family", "vit", "image_size", "size", "cached", "licence", "scores")
    rows = [record | {"size": _size(record)} for record in records]
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
    from blip.checkpoint.registry import model_record

    record = model_record(name)
    if as_json:
        print_lines([json.dumps(record, ensure_ascii=False)])
        return 0
    shown = {"size" if key == "size_mb" else key: value for key, value in record.items() if key != "size_is_estimate"}
    shown |= {"size": _size(record)} if "size" in shown else {}
    rows = [(key, item) for key, value in shown.items() for item in (value if isinstance(value, list) else [value])]
    print_table(("field", "value"), [[key, _cell(value)] for key, value in rows if value not in (None, "")])
    return 0


@models.subcommand("get")
def get(
    names: Annotated[tuple[str, ...], argument("NAME...", help="Model names.", complete=o.model_names)],
    offline: o.OfflineOrOnline = None,
    quiet: o.Quiet = False,
) -> int:
    """Download models into the cache, or check cached ones."""
    from blip.checkpoint.locate import locate, obtain, place_by_hand

    for name in names:
        location = locate(name)
        if location.entry is not None and location.entry.source == "random":
            o.note(f"{name}: random weights, nothing to download", quiet)
            continue
        if location.path is None and not is_offline(offline):
            entry = location.entry
            about = f" (about {entry.megabytes} MB)" if entry is not None and entry.megabytes else ""
            url = location.url or location.hub_id or (entry.location if entry is not None else name)
            o.note(f"{name}: connecting to {url}{about}", quiet)
        try:
            progress = None if quiet else progress_bar(name)
            path = obtain(
                location,
                offline=offline,
                progress=progress,
                log=lambda t: o.note(t, quiet),
            )
        except (EnvironmentProblem, OfflineError) as error:
            hint = place_by_hand(location)
            raise type(error)(f"{error}{hint}") from error
        print_lines([str(path)])
    return 0


@models.subcommand("rm")
def remove(name: Name) -> int:
    """Remove a model from the cache, or an imported one."""
    from blip.checkpoint import registry

    o.note(f"removed {registry.remove(name)}")
    return 0


@models.subcommand("path")
def path(name: Name) -> int:
    """Print where a model is stored; exit 3 if it is not on this machine."""
    from blip.checkpoint.locate import locate, obtain

    location = locate(name)
    try:
        result = location.path if location.path is not None else obtain(location, offline=True)
    except OfflineError:
        raise OfflineError(f"model '{name}' is not on this machine; download it: blip models get {name}") from None
    print_lines([str(result)])
    return 0


@models.subcommand("verify")
def verify(
    names: Annotated[
        tuple[str, ...],
        argument("[NAME]...", help="Model names; without any, all on this machine.", complete=o.model_names),
    ],
) -> int:
    """Compare the SHA-256 of downloaded and bundled models with the recorded ones; exit 3 if one was not or differs."""
    from blip.checkpoint import registry

    downloaded = (r["name"] for r in registry.list_records() if r["cached"] and r["source"] in ("url", "bundled"))
    failed = False
    for name in names or downloaded:
        try:
            digest = registry.verify(name)
        except BlipError as error:
            o.note(str(error), quiet=False)
            failed = True
        else:
            print_lines([f"{name}\tok\t{digest}"])
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
    output: Annotated[Path, option("-o", "--output", group=OUTPUT, help="Folder; .pth file for --to original.")],
    overwrite: o.Overwrite = False,
) -> int:
    """Write a model in another layout."""
    from blip.checkpoint import exchange
    from blip.io.formats import WEIGHTS, require_ending, require_folder

    if to == "original":
        require_ending(output, WEIGHTS)
    else:
        require_folder(output)
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
    yield from (["missing", name, "present", "-"] for name in result.only_first)
    yield from (["missing", name, "-", "present"] for name in result.only_second)
    for name, (first, second) in result.shapes.items():
        yield ["shape", name, str(first), str(second)]
    for name, value in sorted(result.values.items(), key=lambda item: -item[1]):
        yield ["values", name, "max difference", f"{value:.3g}"]


def _size(record: Mapping[str, Any]) -> str:
    """Size of a model: "25.5 MB", "~900 MB" for an estimate of a download."""
    size = record["size_mb"]
    return "" if size is None else f"{'~' if record['size_is_estimate'] else ''}{size:,} MB"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return " ".join(text.split())
