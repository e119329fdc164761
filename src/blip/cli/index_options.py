"""Flags, model and update of the index, shared by `blip index` and `blip search`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from blip.cli import options as o
from blip.cli.commands import INPUT, TASK, option

if TYPE_CHECKING:
    from blip.apps.search.identity import Identity
    from blip.apps.search.index import Index
    from blip.apps.search.update import UpdateOptions, UpdateReport
    from blip.signals import StopRequest
    from blip_lite.model import Model


@dataclass(kw_only=True)
class IndexOptions(o.Machine):
    """Flags of both verbs."""

    group = INPUT
    index: Annotated[
        Path | None,
        option("--index", metavar="DIR", group=TASK, help="Folder of the index.", default="index in BLIP_HOME"),
    ] = None
    model: Annotated[
        str | None,
        option(
            "-m", "--model", group=TASK, help="Model.", default="the index's, else as usual", complete=o.model_names
        ),
    ] = None
    workers: o.Workers = None
    max_megapixels: o.MaxMegapixels = 200.0
    batch_size: o.BatchSize = None
    backend: o.BackendName = "auto"
    no_progress: o.NoProgress = False

    def open(self, *, to_rebuild: bool = False) -> Index:
        """Open the index; its model is loaded when it is needed. To be rebuilt, it may be damaged."""
        from blip.apps.search.database import Damaged, WrongVersion
        from blip.apps.search.index import Index

        with Index.open(self.index) as index:
            try:
                identity = index.identity() if index.exists else None
            except (Damaged, WrongVersion):
                if not to_rebuild:
                    raise
                identity = None
        return Index.open(self.index, model=lambda: self.load(identity))

    def load(self, identity: Identity | None) -> Model:
        """Load the model of -m, else that of the index, else the default model."""
        named = self.model or (None if identity is not None else os.environ.get("BLIP_MODEL"))
        name = named or (o.BUNDLED if identity is None else identity.model)
        if name == o.BUNDLED:
            o.note_default(named, o.BUNDLED, self.quiet)
        size = self.image_size or (identity.image_size if identity is not None and not named else None)
        return self.open_model(name, needs=["match"], backend=self.backend, image_size=size)

    def update_options(self, index: Index, stop: StopRequest, captioner: str | None = None) -> UpdateOptions:
        """Return the options of an update that shows progress and ends on `stop`.

        captioner: name of the captioning model, "" for that of the index, None for no captions.
        """
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

        def load_captioner() -> Model:
            model = index.loaded_model()
            if not captioner or captioner == model.name:
                return model
            return self.open_model(captioner, needs=["caption"], backend=self.backend)

        return UpdateOptions(
            captioner=None if captioner is None else load_captioner,
            workers=self.workers or o.default_workers(),
            batch_size=self.batch_size,
            max_pixels=int(self.max_megapixels * 1e6),
            progress=tick,
        )


def summary(report: UpdateReport) -> str:
    """Return the non-zero counts of an update in words."""
    names = ("new", "changed", "moved", "copied", "removed", "captioned", "unchanged")
    parts = [f"{count:,} {name}" for name in names if (count := getattr(report, name))]
    failed = [f"{len(report.failed):,} failed"] if report.failed else []
    return ", ".join(parts + failed) or "nothing to do"
