"""Models of the page, and which of them serves which tab."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blip_lite.errors import UsageError
from blip_lite.model import Model

SUGGESTIONS = {  # model to start the page with, by capability
    "caption": "caption-base",
    "answer": "vqa-base",
    "match": "retrieval-coco-base",
    "compare": "nlvr-base",
}


@dataclass(frozen=True)
class Models:
    """Loaded models in order of preference: the user's own first, then bundled ones for missing capabilities."""

    loaded: tuple[Model, ...]

    def first_capable(self, capability: str) -> Model | None:
        """Return the first model with a capability: caption, answer, match or compare."""
        return next((model for model in self.loaded if capability in model.capabilities), None)

    def require(self, capability: str) -> Model:
        """Return the first model with a capability. Raises UsageError if there is none."""
        model = self.first_capable(capability)
        if model is None:
            raise UsageError(f"no loaded model can do this; start the page with -m {SUGGESTIONS[capability]}")
        return model

    def credit(self, capability: str) -> str:
        """Line for a tab: the model that serves it, or how to start the page with one that can."""
        model = self.first_capable(capability)
        if model is None:
            command = f"blip demo -m {SUGGESTIONS[capability]}"
            return f"No loaded model can do this. Start the page with one that can: `{command}`"
        return f"Model: `{model.name}`."


def load(names: Iterable[str], bundled: Iterable[str], loader: Callable[[str], Model]) -> Models:
    """Load the named models, and those bundled models that add a capability."""
    loaded = [loader(name) for name in names]
    for name in bundled:
        model = loader(name)
        if not model.capabilities <= frozenset().union(*(other.capabilities for other in loaded)):
            loaded.append(model)
    return Models(tuple(loaded))
