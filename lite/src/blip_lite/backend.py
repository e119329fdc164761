"""What a model computes itself: opened pictures and checked texts in, numbers out. `blip_lite.face` does the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from PIL import Image

from blip_lite.config import BlipConfig
from blip_lite.decoding import Beam, Decoding
from blip_lite.results import Caption, MatchResult, ScoredText
from blip_lite.tokenizer import Arrays, Tokenizer

Pictures = Sequence[Image.Image]  # at least one
Head = Literal["itm", "itc", "both"]


class Backend(Protocol):
    """A model over torch or onnxruntime. image_embeds [B, N, D] are its own kind of array, vectors are of numpy."""

    name: str
    config: BlipConfig
    tokenizer: Tokenizer

    @property
    def default_batch_size(self) -> int:
        """So many in a batch where nobody says."""
        ...

    def _encode(self, pictures: Pictures) -> Any:
        """image_embeds."""
        ...

    def _captions(
        self,
        pictures: Pictures,
        keys: Sequence[str],
        decoding: Decoding,
        prompt: str | None,
        seed: int | None,
        generator: Any,
    ) -> Sequence[Caption]: ...

    def _written(self, embeds: Any, questions: Sequence[str], decoding: Beam) -> Sequence[Sequence[ScoredText]]:
        """Answers to one question for each of image_embeds, best first."""
        ...

    def _ranked(
        self, embeds: Any, questions: Sequence[str], answers: Sequence[str], choices: Arrays, k: int
    ) -> Sequence[Sequence[ScoredText]]:
        """Of a closed list the `k` kept after their first token, best first; a score is the mean of its tokens."""
        ...

    def _true(self, pictures: Pictures, statement: str) -> float:
        """The chance that a statement is true of two pictures."""
        ...

    def _matched(
        self, pictures: Pictures, texts: Sequence[str], pairs: bool, head: Head, max_length: int
    ) -> MatchResult: ...

    def _match_logits(self, pictures: Pictures, texts: Sequence[str], max_length: int) -> Any:
        """[N, M, 2], no match and match."""
        ...

    def _image_vectors(self, pictures: Pictures, projected: bool, tokens: bool) -> Any: ...

    def _text_vectors(self, texts: Sequence[str], projected: bool, tokens: bool) -> Any: ...

    def _pair_vectors(self, pictures: Pictures, texts: Sequence[str], tokens: bool) -> Any: ...
