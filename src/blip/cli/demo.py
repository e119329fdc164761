"""`blip demo`: a web page on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blip.cli import options as o

if TYPE_CHECKING:
    from blip_lite.model import Model

BUNDLED = (o.BUNDLED, o.ANSWERER)


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", help="May be given again; the bundled ones do what no other can."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any that is free.")] = 7860,
    search_root: Annotated[
        Path | None, typer.Option(help="The only folder that may be searched; needed where others can reach the page.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Folder that keeps what search has read; without it, it is forgotten.")
    ] = None,
    max_upload_mb: Annotated[float, typer.Option(min=0.001, help="Larger files are refused.")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Larger images are refused.")] = 50,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Open a web page for captions, questions, matching and search. Example: blip demo -m caption-base"""
    from blip_lite.errors import MissingExtra

    for name in ("gradio", "usearch"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtra('the web page needs an extra: pip install "blip-vlm[demo]"')
    from blip import api
    from blip.apps.demo import launch, models
    from blip.apps.demo.uploads import Limits

    settings = launch.Settings(
        host=host,
        port=port,
        limits=Limits(int(max_upload_mb * (1 << 20)), int(max_megapixels * 1e6)),
        index=index,
        search_root=search_root,
    )
    free = launch.check(settings)

    def loader(name: str) -> Model:
        return api.load(name, device=device, dtype=dtype, threads=threads, offline=offline or None)

    loaded = models.load(model or (), BUNDLED, loader)
    if not model:
        o.note("using the bundled models 'tiny' and 'tiny-vqa'; published ones are far better: -m caption-base", quiet)

    def ready(address: str) -> None:
        print(address, flush=True)
        o.note("open this address in a browser; Ctrl-C ends it", quiet)

    launch.serve(loaded, settings, free, ready)
    return 0
