"""`blip embed`: compute vectors of images, texts or pairs of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun
from blip.cli.batches import DecodedBatch, Record
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


@dataclass(kw_only=True)
class EmbedFlags:
    """Flags of the model and of the vectors."""

    kind: Annotated[
        Literal["image", "text", "multimodal"], option(help="image, text or multimodal (image and text together).")
    ] = "image"
    text: o.Text = ()
    texts: o.Texts = None
    model: o.ModelName = None
    projected: Annotated[
        bool, option("--projected/--no-projected", help="Hidden states instead of unit vectors in the shared space.")
    ] = True
    tokens: Annotated[bool, option(help="Hidden states of all positions.")] = False
    vector_dtype: Annotated[Literal["fp32", "fp16"], option(group=OUTPUT, help="fp32 or fp16.")] = "fp32"

    @property
    def is_projected(self) -> bool:
        """Whether vectors are in the space that images and texts share."""
        return self.projected and not self.tokens and self.kind != "multimodal"


@configurable
def embed(*, inputs: o.Inputs, flags: EmbedFlags, run: o.Run) -> int:
    """Compute vectors of images or texts; compare projected ones by inner product.

    Example: blip embed photos/ -o photos.npz
    """
    kind, lines = flags.kind, read_texts(flags.text, flags.texts)
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
    if not batch_run.is_needed(samples, o.model_name(flags.model)):
        return 0
    embedder = Embedder(flags, run, dict(zip((sample.key for sample in samples), lines, strict=False)))
    models = embedder.load()
    if not flags.is_projected:
        o.note("vectors that are not projected are not comparable by inner product", run.quiet)
    if kind == "text":
        batch_run.write_all(embedder.embed_texts(lines[i : i + TEXT_BATCH]) for i in range(0, len(lines), TEXT_BATCH))
        return 0
    return batch_run.run(samples, models, embedder)


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
class Embedder:
    """Makes records of vectors. texts: those of images by key, for multimodal vectors."""

    flags: EmbedFlags
    run: o.Run
    texts: Mapping[str, str]
    schema = "embedding/1"

    def load(self) -> Sequence[Model]:
        """Open the model."""
        needs = "match" if self.flags.is_projected else "image" if self.flags.kind == "image" else "text"
        self.model = self.run.load(self.flags.model, needs=[needs])
        return [self.model]

    def embed_texts(self, lines: Sequence[str]) -> list[Record]:
        vectors = self.model.embed_text(lines, self.flags.is_projected, tokens=self.flags.tokens).vectors
        return [self._record(line, vector) for line, vector in zip(lines, vectors, strict=True)]

    def __call__(self, batch: DecodedBatch) -> list[list[Record]]:
        images, keys = [decoded.image for decoded in batch], [decoded.sample.key for decoded in batch]
        tokens = self.flags.tokens
        if self.flags.kind == "image":
            vectors = self.model.embed_image_batch(images, self.flags.is_projected, tokens=tokens).vectors
        else:
            vectors = self.model.embed_multimodal(images, [self.texts[key] for key in keys], tokens=tokens).vectors
        return [[self._record(key, vector)] for key, vector in zip(keys, vectors, strict=True)]

    def _record(self, key: str, vector: Any) -> Record:
        flags, dtype = self.flags, DTYPES[self.flags.vector_dtype]
        if flags.tokens and flags.kind != "image":  # without the padding of longer texts in the batch
            vector = vector[: int(vector.any(axis=1).nonzero()[0].max(initial=-1)) + 1]
        return {
            "schema": "embedding/1",
            "key": key,
            "kind": flags.kind,
            "projected": flags.is_projected,
            "dim": vector.shape[-1],
            "dtype": dtype,
            "vector": vector.astype(dtype),
            "model": self.model.name,
        }
