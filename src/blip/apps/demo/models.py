"""The models behind the page: which of them serves what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blip.api import Model

NEEDED = {  # what to start the page with where no model can
    "caption": "caption-base",
    "answer": "vqa-base",
    "match": "retrieval-coco-base",
    "compare": "nlvr-base",
}


@dataclass(frozen=True)
class Models:
    """In the order in which they are asked: the user's own, then the bundled ones for what is left."""

    loaded: tuple[Model, ...]

    def able(self, call: str) -> Model | None:
        """The first model that can caption, answer, match or compare."""
        return next((model for model in self.loaded if call in model.capabilities), None)

    def by(self, call: str) -> str:
        """A line for the page: which model answers here, or how to start the page with one that does."""
        model = self.able(call)
        if model is None:
            return f"No loaded model can do this. Start the page with one that can: `blip demo -m {NEEDED[call]}`"
        return f"By the model `{model.name}`."


def load(names: Iterable[str], bundled: Iterable[str], loader: Callable[[str], Model]) -> Models:
    """The models of these names, and of the bundled ones those that can what no other can."""
    found = [loader(name) for name in names]
    for name in bundled:
        model = loader(name)
        known = frozenset().union(*(other.capabilities for other in found))
        if not model.capabilities <= known:
            found.append(model)
    return Models(tuple(found))
