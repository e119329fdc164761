"""What `blip index` and `blip search` share: the index and its model, the progress of an update, its report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from blip.cli import options as o
from blip.cli.commands import option

if TYPE_CHECKING:
    from blip.apps.search.identity import Identity
    from blip.apps.search.index import Index
    from blip.apps.search.update import UpdateOptions, UpdateReport
    from blip.signals import StopRequest
    from blip_lite.model import Model

IndexFolder = Annotated[
    Path | None, option("--index", metavar="DIR", help="Folder of the index.", default="index in BLIP_HOME")
]
Model_ = Annotated[
    str | None,
    option(
        "-m",
        "--model",
        help="Model name, file or folder.",
        default="the index's, else as usual",
        complete=o.model_names,
    ),
]


@dataclass(kw_only=True)
class IndexOptions(o.Machine):
    """Flags of both verbs."""

    index: IndexFolder = None
    model: Model_ = None
    batch_size: o.BatchSize = None
    engine: o.EngineName = "auto"
    workers: o.Workers = None
    max_megapixels: o.MaxMegapixels = 200.0
    no_progress: o.NoProgress = False

    def open(self) -> Index:
        """The index, with its model to be loaded when it is needed."""
        from blip.apps.search.index import Index

        found = Index.open(self.index)
        known = found.identity() if found.exists else None
        found.close()
        return Index.open(self.index, model=lambda: self.load(known))

    def empty(self, *, folders: bool, on_wait: Callable[[], None]) -> Index:
        """The index emptied (with `folders`, of these too), once the model for the new one is there."""
        from blip.apps.search.database import Damaged
        from blip.apps.search.index import Index

        found = Index.open(self.index)
        try:
            known = found.identity() if found.exists else None
        except Damaged:
            known = None
        model = self.load(known)
        if found.exists:
            found.clear(folders=folders, on_wait=on_wait)
        found.close()
        return Index.open(self.index, model=model)

    def load(self, known: Identity | None) -> Model:
        """The model named, else that of the index, else the default one."""
        from blip import api

        named = self.model or (None if known is not None else os.environ.get("BLIP_MODEL"))
        name = named or (o.BUNDLED if known is None else known.model)
        if name == o.BUNDLED:
            o.note_default(named, o.BUNDLED, self.quiet)
        size = self.image_size or (known.image_size if known is not None and not named else None)
        return api.open_model(
            name,
            engine=self.engine,
            needs=["match"],
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            image_size=size,
            offline=self.offline or None,
        )

    def work(self, index: Index, stop: StopRequest, captioner: str | None = None) -> UpdateOptions:
        """How an update is done; progress is shown, and `stop` heeded. captioner: "" is the model of the index."""
        from blip.apps.search.update import UpdateOptions
        from blip.cli.batch_run import Progress

        shown: list[Progress] = []

        def tick(done: int, total: int) -> bool:
            if not shown or shown[-1].total != total or done < 2:
                shown.append(Progress(total, not (self.no_progress or self.quiet)))
            if done < total:
                shown[-1].update(done)
            else:
                shown[-1].clear()
            return not stop.reason

        def loaded() -> Model:
            from blip import api

            known = index.identity()
            if not captioner or (known is not None and captioner == known.model):
                return index.model()
            return api.open_model(
                captioner,
                engine=self.engine,
                needs=["caption"],
                device=self.device,
                dtype=self.dtype,
                threads=self.threads,
                offline=self.offline or None,
            )

        return UpdateOptions(
            captioner=None if captioner is None else loaded,
            workers=self.workers or o.default_workers(),
            batch_size=self.batch_size,
            max_pixels=int(self.max_megapixels * 1e6),
            progress=tick,
        )


def summary(report: UpdateReport) -> str:
    """What an update has done, in words; what was not is left out."""
    names = ("new", "changed", "moved", "copied", "removed", "captioned", "unchanged")
    parts = [f"{count:,} {name}" for name in names if (count := getattr(report, name))]
    failed = [f"{len(report.failed):,} failed"] if report.failed else []
    return ", ".join(parts + failed) or "nothing to do"
