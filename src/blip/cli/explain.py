"""`blip explain`: where the model looked, a folder of heat-maps for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun, DecodedBatch, Record
from blip.cli.commands import OUTPUT, option
from blip.cli.output import print_table
from blip.cli.settings import configurable
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip.heatmaps.files import Tokens
    from blip.io.samples import Sample
    from blip_lite.explanation import Method
    from blip_lite.model import Model


@dataclass(kw_only=True)
class Flags(o.Reading):
    """Here every input becomes a folder."""

    skip_existing: o.SkipExisting = None
    overwrite: o.Overwrite = False

    def run(self) -> o.Run:
        """The same flags as other verbs have them: one image at a time, no file of records."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return o.Run(**{**given, "skip_existing": None, "overwrite": False, "batch_size": 1, "engine": "torch"})


@configurable
def explain(
    *,
    inputs: o.Inputs,
    text: Annotated[
        str | None,
        option("-t", "--text", metavar="TEXT", help="Text to match, or question.", default="the model's caption"),
    ] = None,
    model: o.ModelName = None,
    method: Annotated[
        Literal["gradcam", "attention", "rollout"], option(help="gradcam, attention or rollout (layers up to --layer).")
    ] = "gradcam",
    layer: Annotated[
        int | None, option(min=0, help="Cross-attention layer from 0.", default="the middle one; rollout: the last")
    ] = None,
    output: Annotated[
        Path | None,
        option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder to write; one subfolder per image."),
    ] = None,
    tokens: Annotated[
        Literal["all", "words", "mean"],
        option(group=OUTPUT, help="Heat-maps of all tokens, of words or only their mean."),
    ] = "words",
    size: Annotated[int, option(min=16, max=8192, group=OUTPUT, help="Longer side of the pictures in pixels.")] = 480,
    image_format: Annotated[Literal["png", "jpg", "webp"], option(group=OUTPUT, help="png, jpg or webp.")] = "png",
    run: Flags,
) -> int:
    """Draw where the model looked, a folder of heat-maps for each image.

    Example: blip explain cat.jpg -t 'a cat on a sofa' -o maps/
    """
    if output is None:
        raise UsageError("no folder to write to; give -o DIR")
    flags = run.run()
    found = flags.inputs(inputs)
    places = _places(found, output)
    existing = o.parse_existing(run.skip_existing, run.overwrite)
    wanted = [one for one in found if _wanted(places[one.key], existing)]
    batch_run = BatchRun(schema="explain/1", flags=flags, show=False)
    if run.dry_run:
        return batch_run.dry_run(wanted, model)
    if not wanted:
        o.note(f"{len(found)} inputs, all have their maps", run.quiet)
        return 0
    loaded = flags.load(model, needs=())
    texts = {one.key: _text_of(one, text, loaded) for one in wanted}
    pictures = _Pictures(loaded, places, texts, method, layer, tokens, size, image_format)
    return batch_run.run(wanted, len(found), loaded, pictures)


@dataclass
class _Pictures:
    """Writes the folder of each image and prints one line about it: key, text, score, folder."""

    model: Model
    places: dict[str, Path]
    texts: dict[str, str | None]
    method: Method
    layer: int | None
    tokens: Tokens
    size: int
    image_format: str

    def __call__(self, good: DecodedBatch) -> Sequence[list[Record]]:
        return [[self.written(one, image)] for one, image in good]

    def written(self, one: Sample, image: Image) -> Record:
        from blip.heatmaps.files import write

        found = self.model.explain(image, self.texts[one.key], self.method, self.layer)
        asked = self.texts[one.key] if found.subject == "answer" else None
        about = {"key": one.key, **({"question": asked} if asked else {}), "model": self.model.name}
        folder = self.places[one.key]
        record = write(folder, found, tokens=self.tokens, size=self.size, image_format=self.image_format, about=about)
        if not found.mean().any():
            o.note(f"{one.key}: the maps are empty: no word's look at layer {found.layer} bears on the {found.subject}")
        print_table(("key", "text", "score", "folder"), [(one.key, found.text, f"{found.score:.4f}", str(folder))])
        return record


def _places(found: Sequence[Sample], folder: Path) -> dict[str, Path]:
    """The folder itself for one image; for several a folder each, which mirrors their keys."""
    from blip.io.sidecars import Sidecars

    if len(found) == 1:
        return {found[0].key: folder}
    mirror, places = Sidecars(folder=folder, extension=""), dict[Path, str]()
    for one in found:
        place, number = mirror.path(one), 2
        while place in places:
            place, number = mirror.path(one).with_name(f"{mirror.path(one).name} ({number})"), number + 1
        places[place] = one.key
    return {key: place for place, key in places.items()}


def _wanted(folder: Path, existing: o.ExistingPolicy) -> bool:
    """Whether there is something to write; raises UsageError where an explanation is there and nothing was said."""
    from blip.heatmaps.files import SUMMARY

    if existing == "overwrite" or not (folder / SUMMARY).exists():
        return True
    if existing == "skip":
        return False
    raise UsageError(f"{folder / SUMMARY} exists; use --skip-existing or --overwrite")


def _text_of(one: Sample, text: str | None, model: Model) -> str | None:
    """What the user said, else the text or question of the input's row, else None where the model can do without."""
    from blip.heatmaps.explain import required_text

    what = required_text(model.config)
    own = one.fields.get("question") if what == "a question" else next(iter(one.texts), None)
    line = text if text is not None else own if isinstance(own, str) else None
    if line is not None and not line.strip():
        raise UsageError(f"an empty text for {one.key}; must have words")
    if line is None and what is not None:
        raise UsageError(f"no text for {one.key}; model '{model.name}' needs {what}: give -t TEXT")
    return line
