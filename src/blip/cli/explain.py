"""`blip explain`: write a folder of heat-maps for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun
from blip.cli.batches import DecodedBatch, Record
from blip.cli.commands import OUTPUT, option
from blip.cli.output import plural, print_table
from blip.cli.settings import configurable
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip.io.samples import Sample
    from blip_lite.model import Model

LOCK_SECONDS = 60.0  # to wait for another run that writes the same heat-maps


@dataclass(kw_only=True)
class Flags(o.Reading):
    """Flags of a verb that writes a folder for each input."""

    skip_existing: o.SkipExisting = None
    overwrite: o.Overwrite = False

    def without_records(self) -> o.Run:
        """Return the flags of a run with torch, image by image, that writes no records."""
        return o.Run(**{**vars(self), "skip_existing": None, "overwrite": False, "batch_size": 1, "backend": "torch"})


@dataclass(kw_only=True)
class HeatmapFlags:
    """Flags of the heat-maps and their pictures."""

    method: Annotated[
        Literal["gradcam", "attention", "rollout"], option(help="gradcam, attention or rollout (layers up to --layer).")
    ] = "gradcam"
    layer: Annotated[
        int | None, option(min=0, help="Cross-attention layer from 0.", default="the middle one; rollout: the last")
    ] = None
    tokens: Annotated[
        Literal["all", "words", "mean"],
        option(group=OUTPUT, help="Heat-maps of all tokens, of words or only their mean."),
    ] = "words"
    size: Annotated[int, option(min=16, max=8192, group=OUTPUT, help="Longer side of the pictures in pixels.")] = 480
    image_format: Annotated[Literal["png", "jpg", "webp"], option(group=OUTPUT, help="png, jpg or webp.")] = "png"


@configurable
def explain(
    *,
    inputs: o.Inputs,
    text: Annotated[
        str | None,
        option("-t", "--text", metavar="TEXT", help="Text to match, or question.", default="the model's caption"),
    ] = None,
    model: o.ModelName = None,
    output: Annotated[
        Path | None,
        option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder to write; one subfolder per image."),
    ] = None,
    heatmaps: HeatmapFlags,
    run: Flags,
) -> int:
    """Draw where the model looked, a folder of heat-maps for each image.

    Example: blip explain cat.jpg -t 'a cat on a sofa' -o maps/
    """
    from blip.io.formats import require_folder

    if output is None:
        raise UsageError("no folder to write to; give -o DIR")
    require_folder(output)
    listed = run.inputs(inputs)
    folders = _folders(listed, output)
    existing = o.parse_existing(run.skip_existing, run.overwrite)
    samples = [sample for sample in listed if _is_needed(folders[sample.key], existing)]
    batch_run = BatchRun(schema="explain/1", flags=run.without_records(), show=False)
    if not batch_run.is_needed(samples, o.model_name(model)):
        return 0
    if not samples:
        o.note(f"{plural(len(listed), 'input')}, all have their heat-maps", run.quiet)
        return 0
    loaded = batch_run.flags.load(model, needs=())
    texts = {sample.key: _choose_text(sample, text, loaded) for sample in samples}

    def describe(batch: DecodedBatch) -> Sequence[list[Record]]:
        keyed = [(decoded.sample.key, decoded.image) for decoded in batch]
        return [[_write(folders[key], key, image, texts[key], loaded, heatmaps)] for key, image in keyed]

    return batch_run.run(samples, [loaded], describe, listed=len(listed), full_size=True)


def _write(folder: Path, key: str, image: Image, text: str | None, model: Model, heatmaps: HeatmapFlags) -> Record:
    """Write the heat-maps of an image and print a line about them."""
    from blip.heatmaps.files import write
    from blip.io.lock import exclusive

    result = model.explain(image, text, heatmaps.method, heatmaps.layer)
    question = {"question": text} if text and result.subject == "answer" else {}
    with exclusive(folder, wait=LOCK_SECONDS):
        record = write(
            folder,
            result,
            tokens=heatmaps.tokens,
            size=heatmaps.size,
            image_format=heatmaps.image_format,
            about={"key": key, **question, "model": model.name},
        )
    if not result.mean().any():
        o.note(f"{key}: empty heat-maps: attention in layer {result.layer} does not change the {result.subject}")
    print_table(("key", "text", "score", "folder"), [(key, result.text, f"{result.score:.4f}", str(folder))])
    return record


def _folders(samples: Sequence[Sample], folder: Path) -> dict[str, Path]:
    """Return the folder of each key: `folder` itself for one image, else subfolders that mirror the keys."""
    from blip.io.sidecars import Sidecars

    if len(samples) == 1:
        return {samples[0].key: folder}
    return Sidecars(folder=folder, extension="").paths(samples)


def _is_needed(folder: Path, existing: o.ExistingPolicy) -> bool:
    """Return whether to write heat-maps. Raises `UsageError` if they exist, by default."""
    from blip.heatmaps.files import SUMMARY

    if existing == "overwrite" or not (folder / SUMMARY).exists():
        return True
    if existing == "skip":
        return False
    raise UsageError(f"{folder / SUMMARY} exists; use --skip-existing or --overwrite")


def _choose_text(sample: Sample, text: str | None, model: Model) -> str | None:
    """Return -t, else the text or question of the input's row, else None if the model needs none."""
    from blip.heatmaps.explain import required_text

    required = required_text(model.config)
    text_of_row = sample.fields.get("question") if required == "a question" else next(iter(sample.texts), None)
    line = text if text is not None else text_of_row if isinstance(text_of_row, str) else None
    if line is not None and not line.strip():
        raise UsageError(f"empty text for {sample.key}; must have words")
    if line is None and required is not None:
        raise UsageError(f"no text for {sample.key}; model '{model.name}' needs {required}: give -t TEXT")
    return line
