"""`blip embed`: compute vectors of images, texts or pairs of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun
from blip.cli.batches import DecodedBatch, Record
from blip.cli.commands import OUTPUT, option
from blip.cli.engine_options import ShardRun
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
def embed(*, inputs: o.Inputs, flags: EmbedFlags, run: ShardRun) -> int:
    """Compute vectors of images or texts; compare projected ones by inner product.

    Example: blip embed photos/ -o photos.npz
    """
    kind, lines = flags.kind, read_texts(flags.text, flags.texts)
    if (kind == "image") == bool(lines):
        raise UsageError(f"--kind {kind} {'takes no' if lines else 'needs'} texts; they go with text and multimodal")
    if kind == "text" and (inputs or run.from_file or run.resume):
        raise UsageError("--kind text with images or --resume; must be texts alone, written at once")
    if run.output_folder is not None:
        return _embed_shards(flags, lines, inputs, run)
    samples = [] if kind == "text" else run.inputs(inputs)
    if kind == "multimodal":
        samples, lines = _broadcast(samples, lines)
    batch_run = BatchRun(schema="embedding/1", flags=run)
    if run.dry_run and kind == "text":
        print_lines(lines)
    if not batch_run.is_needed(samples, o.model_name(flags.model)):
        return 0
    embedder = Embedder(flags, run, texts=dict(zip((sample.key for sample in samples), lines, strict=False)))
    models = embedder.load()
    _note_space(flags, run)
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


def _note_space(flags: EmbedFlags, run: o.Run) -> None:
    if not flags.is_projected:
        o.note("vectors that are not projected are not comparable by inner product", run.quiet)


def _embed_shards(flags: EmbedFlags, lines: list[str], inputs: Sequence[str], run: ShardRun) -> int:
    from blip.cli.shard_run import model_settings, run_shards

    if flags.kind == "text" or len(lines) > 1:
        raise UsageError(f"-o {run.output}; must be used with images, and at most one text for all of them")
    _note_space(flags, run)
    settings = {
        "model": model_settings(o.model_name(flags.model), run),
        "kind": flags.kind,
        "text": lines,
        "projected": flags.is_projected,
        "tokens": flags.tokens,
        "vector_dtype": flags.vector_dtype,
    }
    return run_shards(Embedder(flags, run, text=next(iter(lines), "")), inputs, run, settings)


@dataclass
class Embedder:
    """Makes records of vectors. texts: those of images by key, for multimodal vectors; text: that of all others."""

    flags: EmbedFlags
    run: o.Run
    texts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    schema = "embedding/1"

    def load(self, threads: int | None = None) -> Sequence[Model]:
        """Open the model."""
        run = replace(self.run, threads=self.run.threads or threads)
        needs = "match" if self.flags.is_projected else "image" if self.flags.kind == "image" else "text"
        self.model = run.load(self.flags.model, needs=[needs])
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
            texts = [self.texts.get(key, self.text) for key in keys]
            vectors = self.model.embed_multimodal(images, texts, tokens=tokens).vectors
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
