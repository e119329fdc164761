"""`blip embed`: compute vectors of images, texts or pairs of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun, DecodedBatch, Record
from blip.cli.commands import OUTPUT, option
from blip.cli.output import plural, print_lines
from blip.cli.settings import configurable
from blip.cli.texts import read_texts
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from blip.io.samples import Sample
    from blip_lite.model import Model

DTYPES = {"fp32": "float32", "fp16": "float16"}
TEXT_BATCH = 256


@configurable
def embed(
    *,
    inputs: o.Inputs,
    kind: Annotated[
        Literal["image", "text", "multimodal"], option(help="image, text or multimodal (image and text together).")
    ] = "image",
    text: o.Text = (),
    texts: o.Texts = None,
    model: o.ModelName = None,
    projected: Annotated[
        bool, option("--projected/--no-projected", help="Hidden states instead of unit vectors in the shared space.")
    ] = True,
    tokens: Annotated[bool, option(help="Hidden states of all positions.")] = False,
    vector_dtype: Annotated[Literal["fp32", "fp16"], option(group=OUTPUT, help="fp32 or fp16.")] = "fp32",
    run: o.Run,
) -> int:
    """Compute vectors of images or texts; compare projected ones by inner product.

    Example: blip embed photos/ -o photos.npz
    """
    lines = read_texts(text, texts)
    if (kind == "image") == bool(lines):
        raise UsageError(f"--kind {kind} {'takes no' if lines else 'needs'} texts; they go with text and multimodal")
    if kind == "text" and (inputs or run.from_file or run.resume):
        raise UsageError("--kind text with images or --resume; must be texts alone, written at once")
    samples = [] if kind == "text" else run.inputs(inputs)
    if kind == "multimodal":
        samples, lines = _broadcast(samples, lines)
    batch_run = BatchRun(schema="embedding/1", flags=run)
    if run.dry_run and kind == "text":
        print_lines(lines)
    if not batch_run.is_needed(samples, o.model_name(model)):
        return 0
    projected = projected and not tokens and kind != "multimodal"
    loaded = run.load(model, needs=["match" if projected else "image" if kind == "image" else "text"])
    if not projected:
        o.note("vectors that are not projected are not comparable by inner product", run.quiet)
    embedder = _Embedder(loaded, kind, projected, tokens, DTYPES[vector_dtype])
    if kind == "text":
        batch_run.write_all(embedder.embed_texts(lines[i : i + TEXT_BATCH]) for i in range(0, len(lines), TEXT_BATCH))
        return 0
    texts_by_key = dict(zip((sample.key for sample in samples), lines, strict=False))
    return batch_run.run(samples, loaded, lambda batch: embedder.embed_images(batch, texts_by_key))


def _broadcast(samples: list[Sample], lines: list[str]) -> tuple[list[Sample], list[str]]:
    """Return image i and text i. One text goes with every image; one image, as KEY#0, KEY#1, ..., with every text."""
    if len(samples) == 1 and len(lines) > 1:
        (sample,) = samples
        return [replace(sample, key=f"{sample.key}#{i}") for i in range(len(lines))], lines
    if len(lines) not in (1, len(samples)):
        counts = f"{plural(len(samples), 'image')} and {plural(len(lines), 'text')}"
        raise UsageError(f"{counts}; must be one text, one image, or one text per image")
    return samples, lines * len(samples) if len(lines) == 1 else lines


@dataclass
class _Embedder:
    """Makes records of vectors."""

    model: Model
    kind: str
    projected: bool
    tokens: bool
    dtype: str

    def embed_texts(self, lines: Sequence[str]) -> list[Record]:
        vectors = self.model.embed_text(lines, self.projected, tokens=self.tokens).vectors
        return [self._record(line, vector) for line, vector in zip(lines, vectors, strict=True)]

    def embed_images(self, batch: DecodedBatch, texts: dict[str, str]) -> list[list[Record]]:
        images, keys = [decoded.image for decoded in batch], [decoded.sample.key for decoded in batch]
        if self.kind == "image":
            vectors = self.model.embed_image_batch(images, self.projected, tokens=self.tokens).vectors
        else:
            lines = [texts[key] for key in keys]
            vectors = self.model.embed_multimodal(images, lines, tokens=self.tokens).vectors
        return [[self._record(key, vector)] for key, vector in zip(keys, vectors, strict=True)]

    def _record(self, key: str, vector: Any) -> Record:
        if self.tokens and self.kind != "image":  # without the padding of longer texts in the batch
            vector = vector[: int(vector.any(axis=1).nonzero()[0].max(initial=-1)) + 1]
        return {
            "schema": "embedding/1",
            "key": key,
            "kind": self.kind,
            "projected": self.projected,
            "dim": vector.shape[-1],
            "dtype": self.dtype,
            "vector": vector.astype(self.dtype),
            "model": self.model.name,
        }
