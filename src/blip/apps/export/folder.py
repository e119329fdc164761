"""Exported folders: an ordinary model folder with, beside its weights, the graphs that read them.

A folder appears completely or not at all. `blip.load` opens it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from blip.apps.export.convert import (
    check_packages,
    convert,
    externalize_weights,
    read_locations,
    use_integer_products,
)
from blip.apps.export.graphs import PARTS, Graph, graphs
from blip.apps.export.verify import check_difference, max_difference
from blip.checkpoint.files import copy_terms, write_folder
from blip.checkpoint.load import Loaded, load
from blip.checkpoint.locate import CONFIG, WEIGHTS, locate, obtain
from blip.checkpoint.quantize import SUFFIX, quantize
from blip.checkpoint.tables import shared_names
from blip.io.atomic import atomic_folder
from blip.io.disk import writing
from blip_lite.config import BlipConfig
from blip_lite.errors import MissingPart, UsageError
from blip_lite.graph_sessions import GraphSessions


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export.

    parts: of vision, text, decoder; none = all. int8: 8-bit weights, and graphs that multiply with them.
    tolerance: largest accepted difference from torch; None = do not compare.
    """

    parts: tuple[str, ...] = ()
    opset: int = 20
    int8: bool = False
    tolerance: float | None = 1e-3

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise UsageError(f"--parts {part}; must be one of {', '.join(PARTS)}")

    @property
    def graph_names(self) -> frozenset[str]:
        """Graphs to export, if the model's family has them."""
        return frozenset(name for part in self.parts or PARTS for name in PARTS[part])


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """Largest absolute differences from torch by graph, over three inputs; empty if not compared.

    rounded: those of 8-bit products, to which the tolerance does not apply.
    """

    exact: Mapping[str, float] = field(default_factory=dict)
    rounded: Mapping[str, float] = field(default_factory=dict)


def export(
    name: str,
    output: Path,
    options: ExportOptions,
    *,
    overwrite: bool = False,
    offline: bool | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> ExportReport:
    """Write a model as graphs. log: called with a line of progress.

    Raises MissingExtra without the exporter's packages, MissingPart for parts that the model lacks, CheckpointMismatch
    if a graph differs too much from torch.
    """
    check_packages()
    with atomic_folder(output, CONFIG, overwrite=overwrite) as folder:
        _write_weights(name, folder, options.int8, offline)
        loaded = load(folder)  # the comparison must use the weights as written
        selected = [graph for graph in graphs(loaded.model) if graph.name in options.graph_names]
        if not selected:
            parts, family = ", ".join(options.parts), loaded.config.family
            raise MissingPart(f"model '{name}' has no {parts}; it is a '{family}' model")
        return _write_graphs(selected, folder, loaded.config, options, log)


def _write_graphs(
    selected: list[Graph], folder: Path, config: BlipConfig, options: ExportOptions, log: Callable[[str], None]
) -> ExportReport:
    stored, aliases = read_locations(folder / WEIGHTS), shared_names(config)
    exact, rounded = {}, {}
    for graph in selected:
        path = folder / f"{graph.name}.onnx"
        log(f"writing {path.name}")
        model = convert(graph, opset=options.opset)
        externalize_weights(model, stored, aliases)
        _save(model, path)
        if options.tolerance is not None:
            exact[graph.name] = max_difference(graph, GraphSessions(folder), config.text.vocab_size)
            check_difference(graph.name, exact[graph.name], options.tolerance)
        if options.int8:
            use_integer_products(model)
            _save(model, path)
            if options.tolerance is not None:
                rounded[graph.name] = max_difference(graph, GraphSessions(folder), config.text.vocab_size)
    return ExportReport(exact=exact, rounded=rounded)


def _save(model: Any, path: Path) -> None:
    import onnx_ir

    with writing(path):
        onnx_ir.save(model, path)


def _write_weights(name: str, folder: Path, int8: bool, offline: bool | None) -> None:
    """Write config.json, model.safetensors, vocabulary and licences; int8 and float16 weights keep their type."""
    location = locate(name)
    loaded = load(name, offline=offline)
    is_file = location.entry is None or location.entry.source != "random"
    source = obtain(location, offline=offline) if is_file else None
    state = _stored_weights(loaded, source) or loaded.model.state_dict()
    if int8 and not any(key.endswith(SUFFIX) for key in state):
        state = quantize(state)
    write_folder(folder, state, loaded.config, loaded.vocab)
    copy_terms(source, folder)


def _stored_weights(loaded: Loaded, source: Path | None) -> dict[str, Tensor] | None:
    """Return the weights in their stored types if the source is a folder of blip's own layout, else None."""
    if source is None or not (source / WEIGHTS).is_file():
        return None
    stored, names = load_file(source / WEIGHTS), loaded.model.state_dict().keys()
    if not names - shared_names(loaded.config).keys() <= stored.keys():
        return None
    return {name: x for name, x in stored.items() if name.removesuffix(SUFFIX) in names}
