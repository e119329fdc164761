"""Caption and score the images of a data set: one score file per shard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from blip.api import DEFAULT, LoadOptions
from blip.capfilt.fetch import FETCHED, fetch_tables
from blip.capfilt.items import Reading
from blip.capfilt.record import SCHEMA, SCORES
from blip.capfilt.score import CaptionAndScore
from blip.capfilt.score_file import check_copy_columns
from blip.capfilt.texts import Captions
from blip.checkpoint.digest import weights_sha256
from blip.data import img2dataset
from blip.data.known_datasets import resolve_all
from blip.engine.folder import OutputFolder
from blip.engine.progress import Show
from blip.engine.run import Engine, EngineName, Summary
from blip.engine.run import run as run_units
from blip.engine.units import ROWS
from blip.io.columns import Columns
from blip_lite.checks import check_int
from blip_lite.decoding import Decoding, Nucleus
from blip_lite.errors import UsageError
from blip_lite.image import MAX_PIXELS

Spec = str | os.PathLike[str]


def run(
    data: Spec | Sequence[Spec],
    output: Spec,
    *,
    captioner: str = DEFAULT,
    filter: str = DEFAULT,
    captions: int = 1,
    prompts: Sequence[str] = (),
    decoding: Decoding | None = None,
    seed: int = 0,
    root: Spec | Sequence[Spec] = (),
    image_column: str | None = None,
    text_column: str | None = None,
    key_column: str | None = None,
    human_column: str | None = None,
    copy_columns: Sequence[str] = (),
    fetch: bool = False,
    runner: str = img2dataset.RUNNER,
    rows_per_shard: int = ROWS,
    max_pixels: int = MAX_PIXELS,
    batch_size: int | None = None,
    workers: int | None = None,
    engine: EngineName = "local",
    actors: int = 1,
    ray_address: str | None = None,
    progress: Show | None = None,
    **options: Unpack[LoadOptions],
) -> Summary:
    """Write a score file for each shard of `data` to `output/scores`; shards that have one are skipped.

    A shard is a tar, or `rows_per_shard` rows of a table or folder. The texts of a row are its web texts; the images
    of rows whose `human_column` is true are neither captioned nor scored.

    Args:
        captions: synthetic texts per image and prompt; 0 scores the web texts only.
        prompts: texts that captions continue; none = the captioner's own.
        decoding: how captions are generated, `captions` of them; None = `Nucleus()`, sampling with top_p 0.9.
        seed: sampling depends on this and the image's key alone.
        copy_columns: columns of the data that the score rows repeat.
        fetch: download the images of tables of URLs to `output/fetched` with img2dataset, which `runner` starts.
        engine: "local" works in this process, "ray" in a pool of processes on a Ray cluster.
        actors, ray_address: of "ray", see `blip.engine.ray_pool.run`.
        progress: receives a line after each batch.
        options: of `blip.load`: device, dtype, threads, image_size, compile, offline.

    Raises `UsageError` for data that do not exist, and for an output that other models or settings have made.
    """
    from blip.runtime import cores  # imports torch

    check_int("captions", captions, 0)
    check_copy_columns(copy_columns)
    specs = [os.fspath(spec) for spec in ([data] if isinstance(data, str | os.PathLike) else data)]
    roots = [Path(path) for path in ([root] if isinstance(root, str | os.PathLike) else root)]
    names, resolved_roots, _ = resolve_all(specs, roots)
    columns = Columns(roots=resolved_roots, image=image_column, text=text_column, key=key_column)
    work = CaptionAndScore(
        captioner=captioner if captions else None,
        filter=filter,
        captions=_captions(captions, prompts, decoding, seed),
        reading=Reading(columns=columns, human_column=human_column, copy_columns=tuple(copy_columns)),
        max_pixels=max_pixels,
        batch_size=batch_size,
        workers=workers or cores(),
        options=options,
    )
    if fetch:
        names = fetch_tables(names, work.reading, Path(output) / FETCHED, runner, offline=options.get("offline"))
    return run_units(
        work,
        names,
        columns,
        output_folder(Path(output)),
        _settings(work, rows_per_shard),
        rows=rows_per_shard,
        engine=Engine(name=engine, actors=actors, address=ray_address, device=options.get("device", "auto")),
        show=progress,
    )


def output_folder(path: Path) -> OutputFolder:
    """Return the output folder of `run`."""
    return OutputFolder(path, path / SCORES)


def _captions(number: int, prompts: Sequence[str], decoding: Decoding | None, seed: int) -> Captions | None:
    if not number:
        return None
    decoding = Nucleus(num_captions=number) if decoding is None else decoding
    if decoding.num_captions != number:
        raise UsageError(f"captions {number}, but the decoding returns {decoding.num_captions}")
    return Captions(decoding=decoding, prompts=tuple(prompts) or (None,), seed=seed)


def _settings(work: CaptionAndScore, rows_per_shard: int) -> dict[str, Any]:
    """Return everything that determines the score files besides the data, as JSON values."""
    captions, columns = work.captions, asdict(work.reading.columns)
    return {
        "record": SCHEMA,
        "captioner": None if work.captioner is None else _model(work.captioner, work.options),
        "filter": _model(work.filter, work.options),
        "dtype": work.options.get("dtype", "auto"),
        "image_size": work.options.get("image_size"),
        "captions": captions and captions.decoding.num_captions,
        "decoding": captions and {"method": type(captions.decoding).__name__.lower(), **asdict(captions.decoding)},
        "prompts": captions and captions.prompts,
        "seed": captions and captions.seed,
        "columns": {name: columns[name] for name in ("image", "text", "key")},
        "roots": [str(path) for path in work.reading.columns.roots],
        "human_column": work.reading.human_column,
        "copy_columns": work.reading.copy_columns,
        "rows_per_shard": rows_per_shard,
        "max_pixels": work.max_pixels,
    }


def _model(name: str, options: LoadOptions) -> dict[str, str]:
    return {"name": name, "sha256": weights_sha256(name, offline=options.get("offline"))}
