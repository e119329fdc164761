"""Graphs without weights: every parameter is a reference into the model's safetensors file, stored once for all graphs.

A tensor stored as int8 with a scale, or as float16, is turned into float32 by nodes before its use; the runtime
computes them once, when it opens the graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip.checkpoint.locate import WEIGHTS
from blip.checkpoint.quantize import SUFFIX
from blip_lite.errors import CheckpointError

OURS = "model."  # where the exported modules keep the model
TYPES = {"F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16", "F64": "DOUBLE", "I8": "INT8"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a weights file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes, from the start of the file
    length: int  # bytes


def places(path: Path) -> dict[str, Place]:
    """The tensors of a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        found[name] = Place(entry["dtype"], tuple(entry["shape"]), 8 + size + start, end - start)
    return found


def refer(model: Any, stored: Mapping[str, Place], aliases: Mapping[str, str]) -> None:
    """Makes every weight of an onnx_ir model a reference into the file. aliases: names stored under another."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        if "." not in value.name:  # a constant of the graph itself
            continue
        name = value.name.removeprefix(OURS)
        name = aliases.get(name, name)
        if name not in stored:
            raise CheckpointError(f"{WEIGHTS}: no tensor {name}, which the graph needs")
        del graph.initializers[value.name]
        value.replace_all_uses_with(_read(graph, name, stored))


def _read(graph: Any, name: str, stored: Mapping[str, Place]) -> Any:
    """The value of a stored tensor as float32, with the nodes that make it so in front of the graph."""
    import onnx_ir as ir

    place = stored[name]
    value = _external(graph, name, place, place.shape)
    if place.dtype == "F32":
        return value
    nodes = [_to_float(value)]
    if name + SUFFIX in stored:
        scale = stored[name + SUFFIX]
        column = (*scale.shape, *[1] * (len(place.shape) - 1))  # one scale a row; the bytes are the same
        nodes.append(_to_float(_external(graph, name + SUFFIX, scale, column)))
        nodes.append(ir.node("Mul", [node.outputs[0] for node in nodes]))
    nodes[-1].outputs[0].name = f"{name}.float"
    graph.insert_before(graph[0], nodes)
    return nodes[-1].outputs[0]


def _to_float(value: Any) -> Any:
    import onnx_ir as ir

    return ir.node("Cast", [value], {"to": ir.DataType.FLOAT})


def _external(graph: Any, name: str, place: Place, shape: tuple[int, ...]) -> Any:
    import onnx_ir as ir

    dtype = ir.DataType[TYPES[place.dtype]]
    tensor = ir.ExternalTensor(
        WEIGHTS, place.offset, place.length, dtype, shape=ir.Shape(shape), name=name, base_dir=""
    )
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
