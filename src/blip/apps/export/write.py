"""An exported folder: an ordinary model folder and, beside its weights, the graphs that read them.

It appears whole or not at all. `blip.load` opens it too, for it is one of our folders.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from blip.apps.export.check import check, difference
from blip.apps.export.graphs import PARTS, Graph, graphs
from blip.apps.export.integers import to_integers
from blip.apps.export.translate import check_packages, translate
from blip.apps.export.weights import places, refer
from blip.checkpoint.files import write_folder
from blip.checkpoint.load import Loaded, load
from blip.checkpoint.locate import CONFIG, WEIGHTS, locate, obtain
from blip.checkpoint.quantize import SUFFIX, quantize
from blip.checkpoint.tables import shared_names
from blip.io.atomic import atomic_folder, writing
from blip_lite.config import BlipConfig
from blip_lite.engine import Engine
from blip_lite.errors import MissingPart, UsageError

PAPERS = ("LICENSE", "LICENSE.txt", "NOTICE.md", "README.md")  # that go with a model
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a model is exported.

    parts: of vision, text, decoder; none = all. int8: 8-bit weights, and graphs that multiply with them.
    tolerance: the largest difference from torch that passes; None = not compared.
    """

    parts: tuple[str, ...] = ()
    opset: int = 20
    int8: bool = False
    tolerance: float | None = 1e-3

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise UsageError(f"--parts {part}; must be of {', '.join(PARTS)}")

    @property
    def names(self) -> frozenset[str]:
        """The graphs that are wanted, where the family has them."""
        return frozenset(name for part in self.parts or PARTS for name in PARTS[part])


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Largest absolute differences from torch by graph, over three inputs; empty where not compared.

    rounded: those of 8-bit products, which the tolerance does not concern.
    """

    exact: Mapping[str, float] = field(default_factory=dict)
    rounded: Mapping[str, float] = field(default_factory=dict)


def export(
    name: str,
    output: Path,
    form: Form,
    *,
    overwrite: bool = False,
    offline: bool | None = None,
    say: Say = lambda line: None,
) -> Exported:
    """Writes a model as graphs. say: is told what is going on.

    Raises MissingExtra without the exporter's packages, MissingPart for parts that the model lacks, CheckpointMismatch
    when a graph differs too much from torch.
    """
    check_packages()
    with atomic_folder(output, CONFIG, overwrite=overwrite) as folder:
        _write_weights(name, folder, form.int8, offline)
        loaded = load(folder)  # what is compared is what was written
        chosen = [graph for graph in graphs(loaded.model) if graph.name in form.names]
        if not chosen:
            raise MissingPart(f"model '{name}' has no {', '.join(form.parts)}; it is a '{loaded.config.family}' model")
        return _write_graphs(chosen, folder, loaded.config, form, say)


def _write_graphs(chosen: list[Graph], folder: Path, config: BlipConfig, form: Form, say: Say) -> Exported:
    stored, aliases = places(folder / WEIGHTS), shared_names(config)
    exact, rounded = {}, {}
    for graph in chosen:
        path = folder / f"{graph.name}.onnx"
        say(f"writing {path.name}")
        model = translate(graph, opset=form.opset)
        refer(model, stored, aliases)
        _save(model, path)
        if form.tolerance is not None:
            exact[graph.name] = difference(graph, Engine(folder), config.text.vocab_size)
            check(graph.name, exact[graph.name], form.tolerance)
        if form.int8:
            to_integers(model)
            _save(model, path)
            if form.tolerance is not None:
                rounded[graph.name] = difference(graph, Engine(folder), config.text.vocab_size)
    return Exported(exact=exact, rounded=rounded)


def _save(model: Any, path: Path) -> None:
    import onnx_ir

    with writing(path):
        onnx_ir.save(model, path)


def _write_weights(name: str, folder: Path, int8: bool, offline: bool | None) -> None:
    """config.json, model.safetensors, the vocabulary; int8 or float16 weights of our own layout stay as they are."""
    found = locate(name)
    loaded = load(name, offline=offline)
    is_file = found.entry is None or found.entry.source != "random"
    source = obtain(found, offline=offline) if is_file else None
    state = _stored(loaded, source) or loaded.model.state_dict()
    if int8 and not any(key.endswith(SUFFIX) for key in state):
        state = quantize(state)
    write_folder(folder, state, loaded.config, loaded.vocab)
    papers = [source / paper for paper in PAPERS] if source is not None else []
    for paper in filter(Path.is_file, papers):
        shutil.copyfile(paper, folder / paper.name)


def _stored(loaded: Loaded, source: Path | None) -> dict[str, Tensor] | None:
    """The weights as a folder of our own layout stores them; None for any other source."""
    if source is None or not (source / WEIGHTS).is_file():
        return None
    stored, wanted = load_file(source / WEIGHTS), loaded.model.state_dict().keys()
    if not wanted - shared_names(loaded.config).keys() <= stored.keys():
        return None
    return {name: x for name, x in stored.items() if name.removesuffix(SUFFIX) in wanted}
