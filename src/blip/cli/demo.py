"""`blip demo`: open a web page on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from blip.cli import options as o
from blip.cli.commands import SERVER, command, option
from blip.io.extras import require_extras

BUNDLED = (o.BUNDLED, o.ANSWERER)


@command
def demo(
    *,
    model: o.ModelNames = (),
    search_root: Annotated[
        Path | None, option(metavar="DIR", help="The only folder to search; required on a public --host.")
    ] = None,
    index: Annotated[Path | None, option(metavar="DIR", help="Folder to keep the search index in.")] = None,
    host: o.Host = "127.0.0.1",
    port: o.Port = 7860,
    max_upload_mb: Annotated[float, option(min=0.001, group=SERVER, help="Refuse larger files, in MB.")] = 20.0,
    max_megapixels: o.MaxServedMegapixels = 50.0,
    run: o.Device,
) -> int:
    """Open a web page for captions, questions, matching and search.

    Example: blip demo -m caption-base
    """
    require_extras("the web page", "demo")
    from blip.apps.demo import launch, models
    from blip.apps.demo.uploads import Limits
    from blip.cli.sockets import listen

    settings = launch.Settings(
        host=host,
        limits=Limits(int(max_upload_mb * (1 << 20)), int(max_megapixels * 1e6)),
        index=index,
        search_root=search_root,
    )
    with listen(host, port) as listening:
        loaded = models.load(model, BUNDLED, run.load_torch)
        if not model:
            text = "using the bundled models 'tiny' and 'tiny-vqa'; published ones are far better: -m caption-base"
            o.note(text, run.quiet)

        def ready(address: str) -> None:
            print(address, flush=True)
            o.note("open this address in a browser; Ctrl-C ends it", run.quiet)

        launch.serve(loaded, settings, listening, ready)
    return 0
