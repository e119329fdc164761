"""Models on torch: the backend of the `Model` that `blip.load` returns."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from blip import inference
from blip.checkpoint.files import write_folder, write_hf_folder
from blip.checkpoint.load import Loaded
from blip.heatmaps.explain import explain
from blip.io.image import prepare_for
from blip.model.int8_linear import is_int8, pack_int8
from blip.model.mkldnn_linear import fast_float, pack
from blip.runtime import choose_device, choose_dtype
from blip.tokenizer import Encoded
from blip_lite.arrays import Floats
from blip_lite.backend import Head, Images, Layout, RankedAnswers, cpu_batch_size
from blip_lite.beam_search import Hypothesis
from blip_lite.decoding import Beam, Decoding
from blip_lite.errors import EnvironmentProblem, UsageError
from blip_lite.explanation import Explanation, Method, Subject
from blip_lite.fork import notify_after_fork
from blip_lite.results import MatchResult
from blip_lite.tokenizer import Arrays

GPU_BATCH = 64


class TorchBackend:
    """A `blip_lite.backend.Backend` on a torch module. Calls from several threads run one after the other.

    It can be pickled and copied. In a forked process it runs on one thread, and only on a CPU.

    image_embeds are tensors [B, N, D] on the module's device.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.module, self.config, self.tokenizer = loaded.model, loaded.config, loaded.tokenizer
        self.name = loaded.name
        self.vocab = loaded.vocab  # the vocabulary file, if it is not the bundled one
        self._new_lock()

    def _new_lock(self) -> None:
        self._lock, self._is_forked = threading.Lock(), False
        notify_after_fork(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_is_forked")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._new_lock()

    def after_fork(self) -> None:
        """Replace the lock, which another thread may have held, and prepare the process at its first call."""
        self._new_lock()
        self._is_forked = True

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """One call at a time, without gradients. Raises EnvironmentProblem for a GPU in a forked process."""
        with self._lock, torch.inference_mode():
            if self._is_forked:
                if self.device.type != "cpu":
                    raise EnvironmentProblem(
                        f"a model on {self.device.type} does not work in a forked process; load it there, "
                        "or start the process with the method 'spawn'"
                    )
                torch.set_num_threads(1)  # OpenMP would wait forever for threads of the parent
                self._is_forked = False
            yield

    def __repr__(self) -> str:
        return f"TorchBackend(device={str(self.device)!r}, dtype={self.dtype})"

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights; int8 if linear layers compute in 8 bits."""
        return torch.int8 if is_int8(self.module) else self.module.vision.cls_token.dtype

    @property
    def default_batch_size(self) -> int:
        return cpu_batch_size(self.config.vision) if self.device.type == "cpu" else GPU_BATCH

    @property
    def capabilities(self) -> frozenset[str]:
        return self.config.capabilities

    def missing_reason(self, capability: str) -> str:
        return "not supported"

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> Self:
        """Move the weights; returns the backend itself. Raises UsageError and EnvironmentProblem as `blip.load`."""
        target = self.device if device is None else choose_device(device)
        chosen = choose_dtype(self.dtype if dtype is None else dtype, target)
        if chosen == torch.int8:
            pack_int8(self.module)
            chosen = fast_float(target)  # of everything but the linear layers
        elif is_int8(self.module):
            pack(self.module)
        self.module.to(device=target, dtype=chosen)
        return self

    def save(self, folder: str | os.PathLike[str], layout: Layout = "blip") -> None:
        """Write a folder that `blip.load` reads.

        Layout "hf" raises ConfigError for a model that Transformers has no class for, such as `tiny`.
        """
        write = write_hf_folder if layout == "hf" else write_folder
        write(Path(folder), self.module.state_dict(), self.config, self.vocab)

    def caption(
        self, images: Images, decoding: Decoding, prompt: str | None, seeds: Sequence[int], generator: object | None
    ) -> list[list[Hypothesis]]:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise UsageError(f"generator {generator!r:.40}; must be a torch.Generator or None")
        with self._computing():
            return inference.caption(
                self.module,
                self.tokenizer,
                self.module.encode_image(self._pixels(images)),
                decoding,
                prompt=prompt,
                seeds=seeds,
                generator=generator,
            )

    def encode_images(self, images: Images) -> Tensor:
        size = self.default_batch_size
        with self._computing():
            batches = (self._pixels(images[i : i + size]) for i in range(0, len(images), size))
            return torch.cat([self.module.encode_image(batch) for batch in batches])

    def generate_answers(
        self, image_embeds: Tensor, questions: Sequence[str], decoding: Beam
    ) -> list[list[Hypothesis]]:
        with self._computing():
            return inference.answer(self.module, self.tokenizer, image_embeds, questions, decoding)

    def rank_answers(self, image_embeds: Tensor, questions: Sequence[str], answers: Arrays, k: int) -> RankedAnswers:
        encoded = Encoded(*map(torch.from_numpy, answers))
        with self._computing():
            ranked = inference.rank_answers(self.module, self.tokenizer, image_embeds, questions, encoded, k=k)
        return RankedAnswers(ranked.indices.cpu().numpy(), _numpy(ranked.scores))

    def statement_probability(self, images: Images, statement: str) -> float:
        with self._computing():
            first, second = self._pixels(images).chunk(2)
            return float(inference.reason(self.module, self.tokenizer, first, second, [statement]))

    def match(self, images: Images, texts: Sequence[str], pairs: bool, head: Head, max_length: int) -> MatchResult:
        if head == "itc":
            features = self.embed_images(images, True, False)
            with self._computing():
                text_features = inference.embed_text(self.module, self.tokenizer, texts, max_length=max_length)
            others = _numpy(text_features)
            return MatchResult(None, (features * others).sum(axis=1) if pairs else features @ others.T)
        embeds = self.encode_images(images)
        with self._computing():
            scores = inference.match(self.module, self.tokenizer, embeds, texts, pairs=pairs, max_length=max_length)
        return MatchResult(_numpy(scores.itm), _numpy(scores.itc) if head == "both" else None)

    def match_logits(self, images: Images, texts: Sequence[str], max_length: int) -> Floats:
        encoded = self.tokenizer.encode(texts, first="enc", max_length=max_length)
        embeds = torch.split(self.encode_images(images), 1)
        with self._computing():
            return _numpy(torch.stack([inference.match_logits(self.module, image, encoded) for image in embeds]))

    def embed_images(self, images: Images, projected: bool, tokens: bool) -> Floats:
        with self._computing():
            return _numpy(inference.embed_image(self.module, self._pixels(images), projected=projected, tokens=tokens))

    def embed_texts(self, texts: Sequence[str], projected: bool, tokens: bool) -> Floats:
        with self._computing():
            return _numpy(inference.embed_text(self.module, self.tokenizer, texts, projected=projected, tokens=tokens))

    def embed_pairs(self, images: Images, texts: Sequence[str], tokens: bool) -> Floats:
        with self._computing():
            return _numpy(
                inference.embed_multimodal(self.module, self.tokenizer, self._pixels(images), texts, tokens=tokens)
            )

    def explain(
        self,
        image: Image.Image,
        text: str | None,
        method: Method,
        layer: int | None,
        subject: Subject | None,
    ) -> Explanation:
        with self._computing():
            embeds = self.module.encode_image(self._pixels([image]))
            return explain(self.module, self.tokenizer, embeds, text, method, layer, subject=subject, image=image)

    def _pixels(self, images: Images) -> Tensor:
        """pixel_values [B, 3, S, S] on the module's device."""
        config, to = self.config, self.module.vision.cls_token
        return prepare_for(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std, to=to)


def _numpy(x: Tensor) -> Floats:
    values: Floats = x.float().cpu().numpy()
    return values
