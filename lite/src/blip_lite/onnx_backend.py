"""Exported models on onnxruntime: `load(folder)` returns a `Model` that needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from blip_lite import ASSETS
from blip_lite.arrays import Floats, Ids, log_softmax, match_probability
from blip_lite.backend import Head, Images, Layout, RankedAnswers, cpu_batch_size
from blip_lite.beam_search import Hypothesis, decode_all, generate
from blip_lite.checks import check_int, check_path
from blip_lite.config import BlipConfig
from blip_lite.decoding import Beam, Decoding
from blip_lite.errors import CheckpointError, MissingPart, UsageError
from blip_lite.explanation import Method, Subject
from blip_lite.graph_sessions import Feeds, GraphSessions, GraphStepper
from blip_lite.image import prepare
from blip_lite.model import Model
from blip_lite.results import MatchResult
from blip_lite.text_files import load_json_object
from blip_lite.tokenizer import Arrays, Tokenizer

BUNDLED = "tiny"
CONFIG = "config.json"
GRAPHS = {  # the graphs that each call runs
    "caption": ("vision", "cross", "decoder"),
    "answer": ("vision", "fuse", "cross", "decoder"),
    "match": ("vision", "text", "match"),
    "text": ("vision", "text", "fuse"),
    "image": ("vision",),
    "compare": ("vision", "reason"),
}
MAX_LENGTH = 35  # ids of a question or text
TOKENS_PER_PASS = 4096  # limits the memory that many texts need
ANSWERS_PER_PASS = 32  # per question: few, so that the answers of a pass have similar lengths


def load(folder: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> Model[OnnxBackend]:
    """Load an exported folder; None = BLIP_MODEL, else the bundled model `tiny`.

    threads: number of CPU threads; None = the physical cores. Raises CheckpointError for any other folder.
    """
    folder = (os.environ.get("BLIP_MODEL") or BUNDLED) if folder is None else folder
    check_path("folder", folder)
    name = os.fspath(folder)
    path = ASSETS / name if name == BUNDLED else Path(name).expanduser()
    if not is_exported(path):
        raise CheckpointError(f"{name}: not an exported model; it needs {CONFIG} and .onnx graphs")
    return open_folder(path, name, threads=threads)


def open_folder(path: Path, name: str, *, threads: int | None = None) -> Model[OnnxBackend]:
    """The model of an exported folder, under any name."""
    if threads is not None:
        check_int("threads", threads, 1)
    config = _read_config(path / CONFIG)
    return Model(OnnxBackend(name, config, Tokenizer.from_config(config, path), GraphSessions(path, threads=threads)))


def is_exported(path: Path) -> bool:
    """Whether a folder contains exported graphs."""
    return (path / CONFIG).is_file() and any(path.glob("*.onnx"))


def _read_config(path: Path) -> BlipConfig:
    try:
        return BlipConfig.from_dict(load_json_object(path))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error


class OnnxBackend:
    """A `blip_lite.backend.Backend` over the graphs of an exported folder. Several threads may use it.

    image_embeds are numpy arrays [B, N, D].
    """

    def __init__(self, name: str, config: BlipConfig, tokenizer: Tokenizer, sessions: GraphSessions) -> None:
        self.name, self.config, self.tokenizer, self.sessions = name, config, tokenizer, sessions

    def __repr__(self) -> str:
        return f"OnnxBackend({str(self.sessions.folder)!r})"

    @property
    def default_batch_size(self) -> int:
        return cpu_batch_size(self.config.vision)

    @property
    def capabilities(self) -> frozenset[str]:
        calls = GRAPHS.keys() & self.config.capabilities
        return frozenset(call for call in calls if self.sessions.graphs.issuperset(GRAPHS[call]))

    def missing_reason(self, capability: str) -> str:
        missing = [f"{graph}.onnx" for graph in GRAPHS.get(capability, ()) if graph not in self.sessions.graphs]
        return (
            f"{', '.join(missing)} missing; export the model with all graphs"
            if missing
            else "not supported with onnxruntime"
        )

    def caption(
        self, images: Images, decoding: Decoding, prompt: str | None, seeds: Sequence[int], generator: object | None
    ) -> list[list[Hypothesis]]:
        if generator is not None:
            raise UsageError("generator: not supported with onnxruntime; use torch")
        ids = self.tokenizer.prompt_ids(self.config.prompt if prompt is None else prompt)
        (embeds,) = self._vision(images, ["image_embeds"])
        stepper = GraphStepper(self.sessions, self.sessions.run("cross", {"source": embeds}))
        rows = generate(stepper, np.tile(np.array(ids), (len(embeds), 1)), decoding, self.config.text)
        return decode_all(self.tokenizer, rows)

    def encode_images(self, images: Images) -> Floats:
        return self._encode(images, ["image_embeds"])[0]

    def generate_answers(
        self, image_embeds: Floats, questions: Sequence[str], decoding: Beam
    ) -> list[list[Hypothesis]]:
        stepper, start = self._answer_stepper(image_embeds, questions)
        return decode_all(self.tokenizer, generate(stepper, start, decoding, self.config.text))

    def rank_answers(self, image_embeds: Floats, questions: Sequence[str], answers: Arrays, k: int) -> RankedAnswers:
        """The k answers with the most probable first token are scored in full, token by token (blip-spec 4.3)."""
        ids, lengths = answers.input_ids, answers.attention_mask.sum(axis=1)
        stepper, start = self._answer_stepper(image_embeds, questions)
        first = log_softmax(stepper.start(start, int(lengths.max())))[:, ids[:, 1]]
        indices = np.argsort(-first, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(first, indices, axis=1)
        order = np.argsort(lengths[indices], axis=1, kind="stable")
        for begin in range(0, indices.shape[1], ANSWERS_PER_PASS):
            columns = order[:, begin : begin + ANSWERS_PER_PASS]
            chosen = np.take_along_axis(indices, columns, axis=1)
            rest = _continuation_logprobs(stepper.fork(), ids[chosen], lengths[chosen])
            np.put_along_axis(scores, columns, np.take_along_axis(scores, columns, axis=1) + rest, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        return RankedAnswers(np.take_along_axis(indices, order, axis=1), np.take_along_axis(scores, order, axis=1))

    def statement_probability(self, images: Images, statement: str) -> float:
        ids, mask = self.tokenizer.arrays([statement], first="enc")
        embeds = self.encode_images(images)
        feeds: Feeds = {"input_ids": ids, "attention_mask": mask, "first": embeds[:1], "second": embeds[1:]}
        return float(match_probability(self.sessions.run("reason", feeds)[0])[0])

    def match(self, images: Images, texts: Sequence[str], pairs: bool, head: Head, max_length: int) -> MatchResult:
        embeds, image_features = self._encode(images, ["image_embeds", "image_features"])
        itm = itc = None
        if head != "itc":
            encoded = self.tokenizer.arrays(texts, first="enc", max_length=max_length)
            if pairs:
                ids, mask = encoded.input_ids[:, None], encoded.attention_mask[:, None]
                itm = match_probability(self._cross_encode("match", ids, mask, embeds)[:, 0])
            else:
                itm = match_probability(self._all_match_logits(embeds, encoded))
        if head != "itm":
            text_features = self._embed_texts(texts, True, False, max_length)
            itc = (image_features * text_features).sum(axis=1) if pairs else image_features @ text_features.T
        return MatchResult(itm, itc)

    def match_logits(self, images: Images, texts: Sequence[str], max_length: int) -> Floats:
        encoded = self.tokenizer.arrays(texts, first="enc", max_length=max_length)
        return self._all_match_logits(self.encode_images(images), encoded)

    def embed_images(self, images: Images, projected: bool, tokens: bool) -> Floats:
        (result,) = self._encode(images, ["image_features" if projected else "image_embeds"])
        return result if tokens or projected else result[:, 0]

    def embed_texts(self, texts: Sequence[str], projected: bool, tokens: bool) -> Floats:
        return self._embed_texts(texts, projected, tokens, MAX_LENGTH)

    def embed_pairs(self, images: Images, texts: Sequence[str], tokens: bool) -> Floats:
        encoded = self.tokenizer.arrays(texts, first="enc", max_length=MAX_LENGTH)
        states = self._fuse(encoded, self.encode_images(images))
        return states * encoded.attention_mask[..., None].astype(np.float32) if tokens else states[:, 0]

    def explain(
        self,
        image: Image.Image,
        text: str | None,
        method: Method,
        layer: int | None,
        subject: Subject | None,
    ) -> NoReturn:
        raise MissingPart(f"model '{self.name}' cannot explain: not supported with onnxruntime")

    def save(self, folder: str | os.PathLike[str], layout: Layout) -> NoReturn:
        raise MissingPart(f"model '{self.name}' cannot be saved: it is an exported folder; copy {self.sessions.folder}")

    def _encode(self, images: Images, outputs: Sequence[str]) -> list[Floats]:
        """Outputs of the graph `vision` for any number of images, a batch at a time."""
        size = self.default_batch_size
        results = [self._vision(images[i : i + size], outputs) for i in range(0, len(images), size)]
        return [np.concatenate(columns) for columns in zip(*results, strict=True)]

    def _vision(self, images: Images, outputs: Sequence[str]) -> list[Floats]:
        config = self.config
        pixels = prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)
        return self.sessions.run("vision", {"pixel_values": pixels}, outputs)

    def _answer_stepper(self, image_embeds: Floats, questions: Sequence[str]) -> tuple[GraphStepper, Ids]:
        """A decoder that attends to questions fused with their images, and the start of its texts [B, 1]."""
        encoded = self.tokenizer.arrays(questions, first="enc", max_length=MAX_LENGTH)
        states = self._fuse(encoded, image_embeds)
        cross = self.sessions.run("cross", {"source": states})
        stepper = GraphStepper(self.sessions, cross, encoded.attention_mask)
        return stepper, np.full((len(questions), 1), self.config.text.dec_id)

    def _fuse(self, encoded: Arrays, image_embeds: Floats) -> Floats:
        """States [B, T, D] of text i with image i."""
        ids, mask = encoded.input_ids[:, None], encoded.attention_mask[:, None]
        return self._cross_encode("fuse", ids, mask, image_embeds)[:, 0]

    def _cross_encode(self, graph: str, ids: Ids, mask: Ids, image_embeds: Floats) -> Floats:
        """Output of a graph for R texts [I, R, T] on each of I images."""
        feeds: Feeds = {"input_ids": ids, "attention_mask": mask, "image_embeds": image_embeds}
        return self.sessions.run(graph, feeds)[0]

    def _all_match_logits(self, image_embeds: Floats, encoded: Arrays) -> Floats:
        """ITM logits [N, M, 2] of all images with all texts."""
        logits = np.empty((len(image_embeds), len(encoded.input_ids), 2), dtype=np.float32)
        for indices, ids, mask in _by_length(encoded):
            for i in range(len(image_embeds)):
                embeds = image_embeds[i : i + 1]
                logits[i, indices] = self._cross_encode("match", ids[None], mask[None], embeds)[0]
        return logits

    def _embed_texts(self, texts: Sequence[str], projected: bool, tokens: bool, max_length: int) -> Floats:
        encoded = self.tokenizer.arrays(texts, max_length=max_length)
        output = "text_features" if projected else "states"
        result: Floats | None = None
        for indices, ids, mask in _by_length(encoded):
            (values,) = self.sessions.run("text", {"input_ids": ids, "attention_mask": mask}, [output])
            values = values * mask[..., None] if tokens else values if projected else values[:, 0]
            if result is None:
                shape = (*encoded.input_ids.shape, values.shape[2]) if tokens else (len(texts), values.shape[1])
                result = np.zeros(shape, dtype=np.float32)
            result[(indices, slice(ids.shape[1])) if tokens else indices] = values
        assert result is not None, "Model checks that there are texts"
        return result


def _continuation_logprobs(stepper: GraphStepper, ids: Ids, lengths: Ids) -> Floats:
    """Log-probability [B, n] of all tokens after the first of answers [B, n, T], whose start was given."""
    total = np.zeros(lengths.shape, dtype=np.float32)
    stepper.expand(ids.shape[1])
    for i in range(1, int(lengths.max()) - 1):
        logprobs = log_softmax(stepper.step(ids[:, :, i].ravel()))
        of_next = np.take_along_axis(logprobs, ids[:, :, i + 1].reshape(-1, 1), axis=1).reshape(lengths.shape)
        total += np.where(i + 1 < lengths, of_next, 0)
    return total


def _by_length(encoded: Arrays) -> Iterator[tuple[Ids, Ids, Ids]]:
    """Texts of similar length together, cut to the longest: (indices, ids, mask), at most TOKENS_PER_PASS ids each."""
    lengths = encoded.attention_mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    end = len(order)
    while end:  # longest first, so that the longest texts determine the size of a pass
        longest = int(lengths[order[end - 1]])
        begin = max(0, end - max(1, TOKENS_PER_PASS // longest))
        indices = order[begin:end]
        yield indices, encoded.input_ids[indices, :longest], encoded.attention_mask[indices, :longest]
        end = begin
