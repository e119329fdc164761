"""`blip embed`: images, texts or pairs of both as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun, DecodedBatch, Record
from blip.cli.commands import OUTPUT, option
from blip.cli.settings import configurable
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from blip.io.samples import Sample
    from blip_lite.model import Model

DTYPES = {"fp32": "float32", "fp16": "float16"}
TEXTS_AT_ONCE = 256


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
    lines = o.read_texts(text, texts)
    if (kind == "image") == bool(lines):
        raise UsageError(f"--kind {kind} {'takes no' if lines else 'needs'} texts; they go with text and multimodal")
    if kind == "text" and (inputs or run.from_file or run.resume):
        raise UsageError("--kind text with images or --resume; must be texts alone, written in one go")
    batch_run = BatchRun(schema="embedding/1", flags=run)
    found: list[Sample] = []
    if kind != "text":
        found = run.inputs(inputs)
    if kind == "multimodal" and len(lines) not in (1, len(found)):
        raise UsageError(f"{len(found)} images and {len(lines)} texts; must be as many, or one text")
    if not batch_run.must_write():
        return 0
    if run.dry_run:
        if kind == "text":
            print("\n".join(lines))
        return batch_run.dry_run(found, model)
    projected = projected and not tokens and kind != "multimodal"
    loaded = run.load(model, needs=["match" if projected else "image" if kind == "image" else "text"])
    if not projected:
        o.note("vectors that are not projected are not made to be compared by inner product", run.quiet)
    embedder = _Embedder(loaded, kind, projected, tokens, DTYPES[vector_dtype])
    if kind == "text":
        batch_run.write_all(
            embedder.of_texts(lines[i : i + TEXTS_AT_ONCE]) for i in range(0, len(lines), TEXTS_AT_ONCE)
        )
        return 0
    partner = dict(zip((one.key for one in found), lines * (len(found) if len(lines) == 1 else 1), strict=False))
    return batch_run.run(found, len(found), loaded, lambda good: embedder.of_images(good, partner))


class _Embedder:
    """Records of vectors."""

    def __init__(self, model: Model, kind: str, projected: bool, tokens: bool, dtype: str) -> None:
        self.model, self.kind, self.projected, self.tokens, self.dtype = model, kind, projected, tokens, dtype

    def of_texts(self, lines: Sequence[str]) -> list[Record]:
        vectors = self.model.embed_text(lines, self.projected, tokens=self.tokens).vectors
        return [self.record(line, vector) for line, vector in zip(lines, vectors, strict=True)]

    def of_images(self, good: DecodedBatch, texts: dict[str, str]) -> list[list[Record]]:
        images, keys = [image for _, image in good], [one.key for one, _ in good]
        if self.kind == "image":
            vectors = self.model.embed_image_batch(images, self.projected, tokens=self.tokens).vectors
        else:
            lines = [texts[key] for key in keys]
            vectors = self.model.embed_multimodal_batch(images, lines, tokens=self.tokens).vectors
        return [[self.record(key, vector)] for key, vector in zip(keys, vectors, strict=True)]

    def record(self, key: str, vector: Any) -> Record:
        if self.tokens and self.kind != "image":  # without what longer texts of the same batch have added
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
