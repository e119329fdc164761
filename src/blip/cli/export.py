"""`blip export`: write a model in a layout that other programs run."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from blip.cli import options as o
from blip.cli.commands import OUTPUT, command, option
from blip.io.formats import require_folder
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from blip.apps.export.folder import ExportOptions

GRAPHS = ("onnx", "web")
Layout = Literal["onnx", "web", "safetensors", "hf"]
LAYOUTS = get_args(Layout)


@command
def export(
    *,
    model: o.ModelName = None,
    to: Annotated[Layout, option(metavar="LAYOUT", help="onnx, web (a page with graphs), safetensors or hf.")] = "onnx",
    parts: Annotated[
        str | None, option(metavar="LIST", help="Only some graphs: vision, text, decoder.", default="all")
    ] = None,
    int8: Annotated[bool, option(help="8-bit weights; graphs also compute with them (less exact).")] = False,
    opset: Annotated[int, option(min=18, max=23, help="ONNX opset.")] = 20,
    check: Annotated[
        bool, option("--check/--no-check", help="Do not compare the graphs with torch on 3 inputs.")
    ] = True,
    tolerance: Annotated[float, option(min=0.0, help="Largest difference that passes the comparison.")] = 1e-3,
    output: Annotated[Path, option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder to write.")],
    overwrite: o.Overwrite = False,
    offline: o.Offline = False,
    quiet: o.Quiet = False,
) -> int:
    """Write a model as ONNX graphs, a browser page, safetensors or a Transformers folder.

    Example: blip export -m caption-base -o exported
    """

    require_folder(output)
    if parts is not None and to not in GRAPHS:
        raise UsageError(f"--parts with --to {to}; must be used with --to {' or '.join(GRAPHS)}")
    o.note_default(model, o.BUNDLED, quiet)
    name = o.model_name(model)
    require_folder(output)
    if to in GRAPHS:
        from blip.apps.export.folder import ExportOptions

        selected = tuple(part.strip() for part in (parts or "").split(",") if part.strip())
        options = ExportOptions(parts=selected, opset=opset, int8=int8, tolerance=tolerance if check else None)
        write = _write_page if to == "web" else _write_graphs
        write(name, output, options, overwrite, offline, quiet)
    else:
        from blip.checkpoint.exchange import convert

        convert(name, output, "hf" if to == "hf" else "blip", int8=int8, overwrite=overwrite, offline=offline or None)
    print(output)
    return 0


def _write_graphs(name: str, output: Path, options: ExportOptions, overwrite: bool, offline: bool, quiet: bool) -> None:
    """Write a folder of graphs; note how far they are from torch."""
    from blip.apps.export.folder import export

    report = export(
        name, output, options, overwrite=overwrite, offline=offline or None, log=lambda line: o.note(line, quiet)
    )
    for differences, what in ((report.exact, ""), (report.rounded, ", with 8-bit products")):
        if differences:
            worst = max(differences, key=lambda graph: differences[graph])
            o.note(f"largest difference from torch{what}: {differences[worst]:.2g} ({worst}.onnx)", quiet)


def _write_page(name: str, output: Path, options: ExportOptions, overwrite: bool, offline: bool, quiet: bool) -> None:
    """Write a browser page; graphs are exported unless the model has them, as `tiny` does."""
    from blip.apps.export.folder import ExportOptions
    from blip.apps.export.web import SITE, write
    from blip.checkpoint.locate import locate
    from blip.io.atomic import atomic_folder
    from blip_lite.onnx_backend import is_exported

    with atomic_folder(output, SITE, overwrite=overwrite) as page, TemporaryDirectory() as folder:
        graphs = locate(name).path
        if graphs is None or not is_exported(graphs) or options != ExportOptions(tolerance=options.tolerance):
            graphs = Path(folder) / Path(name).name
            _write_graphs(name, graphs, options, False, offline, quiet)
        write(graphs, page)
