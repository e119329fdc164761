"""ONNX models of graphs: conversion of modules, references to stored weights, and linear layers in 8-bit integers.

A converted model has no weights of its own: every parameter refers to the model's safetensors file, which stores it
once for all graphs. A tensor stored as int8 with a scale, or as float16, is converted to float32 by nodes of the
graph; the runtime computes them once, when it opens the graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from blip.apps.export.graphs import Graph, arguments
from blip.checkpoint.locate import WEIGHTS
from blip.checkpoint.quantize import SUFFIX
from blip_lite.errors import CheckpointError, MissingExtra
from blip_lite.text_files import parse_json

MAX_FOLDED = 8192  # values of a constant that may be computed at export; weights keep their stored form
# Sizes of the free axes in the example inputs, which must differ within a graph: the exporter would confuse equal ones
EXAMPLE_SIZES = {"images": 2, "rows": 3, "texts": 3, "length": 5, "tokens": 7, "new": 4, "past": 5, "past_rows": 9}
PREFIX = "model."  # of parameter names: attribute under which the exported modules hold the model
TYPES = {"F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16", "F64": "DOUBLE", "I8": "INT8"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Location of a tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes, from the start of the file
    length: int  # bytes


def read_locations(path: Path) -> dict[str, StoredTensor]:
    """Read the locations of all tensors from the header of a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = parse_json(file.read(size))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]), 8 + size + start, end - start)
    return tensors


def check_packages() -> None:
    """Raise MissingExtra if a package of the exporter is not installed."""
    if not all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        raise MissingExtra('export to graphs needs an extra: pip install "blip-vlm[onnx]"')


def convert(graph: Graph, *, opset: int) -> Any:  # Any: onnx_ir is an optional dependency
    """Return the onnx_ir model of a graph, with named free axes and weights as initializers."""
    from onnxscript.optimizer import optimize_ir
    from torch.export import Dim

    dims = {axis: Dim(axis) for axis in EXAMPLE_SIZES}
    shapes, examples = {}, {}
    for name, value in graph.inputs.items():
        shapes[name] = {i: dims[axis] for i, axis in enumerate(value.axes) if isinstance(axis, str)}
        shape = value.shape(EXAMPLE_SIZES)
        examples[name] = torch.ones(shape, dtype=torch.int64) if value.is_integer else torch.randn(shape)
    with _without_messages(), torch.no_grad():
        program = torch.onnx.export(
            graph.module.eval(),
            arguments(examples),
            dynamo=True,
            opset_version=opset,
            optimize=False,
            verbose=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=arguments(shapes),
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
        )
        assert program is not None
        weights = {name for name, _ in graph.module.named_parameters(remove_duplicate=False)}
        optimize_ir(program.model, input_size_limit=MAX_FOLDED, should_fold=lambda node: _may_fold(node, weights))
    _clear_metadata(program.model)
    return program.model


def _may_fold(node: Any, weights: set[str]) -> bool | None:
    """Return False for a node that reads a weight, which would be stored again in another form; else None (default)."""
    return False if any(value is not None and value.name in weights for value in node.inputs) else None


def _clear_metadata(model: Any) -> None:
    """Remove the source location of each node: five sixths of the file, and paths of this machine."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    outputs = (value for node in model.graph.all_nodes() for value in node.outputs)
    for owner in (model, *model.graph.inputs, *model.graph.initializers.values(), *outputs):
        owner.metadata_props.clear()
        owner.doc_string = None


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention in the fewest operations: scales the few queries instead of the many keys.

    Masks are bool and never exclude all keys, so no row needs a guard.
    """
    from onnxscript import opset20 as op

    assert not (is_causal or enable_gqa or scale or dropout_p)
    width = query.shape[-1]
    scores = op.MatMul(
        op.Mul(query, op.Constant(value_float=float(width) ** -0.5)), op.Transpose(key, perm=[0, 1, 3, 2])
    )
    if attn_mask is not None:
        scores = op.Where(attn_mask, scores, op.Constant(value_float=float("-inf")))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


@contextmanager
def _without_messages() -> Iterator[None]:
    """Silence the exporter's messages about packages that are not needed and axes that intentionally share a name."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def externalize_weights(
    model: Any,  # Any: onnx_ir is an optional dependency
    stored: Mapping[str, StoredTensor],
    aliases: Mapping[str, str],
) -> None:
    """Replace every weight of an onnx_ir model by a reference to the file. aliases: names stored under another."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        if "." not in value.name:  # a constant of the graph itself
            continue
        name = value.name.removeprefix(PREFIX)
        name = aliases.get(name, name)
        if name not in stored:
            raise CheckpointError(f"{WEIGHTS}: no tensor {name}, which the graph needs")
        del graph.initializers[value.name]
        value.replace_all_uses_with(_float_weight(graph, name, stored))


def _float_weight(graph: Any, name: str, stored: Mapping[str, StoredTensor]) -> Any:
    """Return the value of a stored tensor as float32, inserting the nodes that convert it."""
    import onnx_ir as ir

    tensor = stored[name]
    value = _external_value(graph, name, tensor, tensor.shape)
    if tensor.dtype == "F32":
        return value
    nodes = [ir.node("Cast", [value], {"to": ir.DataType.FLOAT})]
    if name + SUFFIX in stored:
        scale = stored[name + SUFFIX]
        column = (*scale.shape, *[1] * (len(tensor.shape) - 1))  # one scale per row; the bytes are the same
        scales = _external_value(graph, name + SUFFIX, scale, column)
        nodes.append(ir.node("Cast", [scales], {"to": ir.DataType.FLOAT}))
        nodes.append(ir.node("Mul", [node.outputs[0] for node in nodes]))
    nodes[-1].outputs[0].name = f"{name}.float"
    graph.insert_before(graph[0], nodes)
    return nodes[-1].outputs[0]


def _external_value(graph: Any, name: str, stored: StoredTensor, shape: tuple[int, ...]) -> Any:
    import onnx_ir as ir

    dtype = ir.DataType[TYPES[stored.dtype]]
    tensor = ir.ExternalTensor(
        WEIGHTS, stored.offset, stored.length, dtype, shape=ir.Shape(shape), name=name, base_dir=""
    )
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def use_integer_products(model: Any) -> None:  # Any: onnx_ir is an optional dependency
    """Let the linear layers with int8 weights multiply integers, after `externalize_weights`.

    Their input is quantized to 8 bits at run time, with one scale for the whole batch: faster on processors that
    multiply bytes, but less exact, and dependent on the rest of the batch. All else stays in float32.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in list(model.graph):
        weight = _int8_weight(node)
        if weight is not None:
            nodes = _integer_product(node, *weight)
            ir.convenience.replace_nodes_and_values(model.graph, node, [node], nodes, node.outputs, nodes[-1].outputs)
    RemoveUnusedNodesPass()(model)


def _int8_weight(node: Any) -> tuple[Any, Any] | None:
    """Return the int8 weight [N, K] of a linear layer and its float32 scales [N, 1]; None for any other node."""
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0):
        value = node.inputs[1]
    elif node.op_type == "MatMul" and _producer_type(node.inputs[1]) == "Transpose":
        value = node.inputs[1].producer().inputs[0]
    else:
        return None
    if _producer_type(value) != "Mul" or [_producer_type(x) for x in value.producer().inputs] != ["Cast", "Cast"]:
        return None
    integers, scales = value.producer().inputs
    return integers.producer().inputs[0], scales


def _producer_type(value: Any) -> str | None:
    producer = value.producer()
    return None if producer is None else str(producer.op_type)


def _integer_product(node: Any, integers: Any, scales: Any) -> list[Any]:
    """Return the nodes, in order, that compute x @ weight.T (+ bias) with integers."""
    import onnx_ir as ir

    quantize = ir.node("DynamicQuantizeLinear", [node.inputs[0]], num_outputs=3)
    x, x_scale, zero_point = quantize.outputs
    transpose = ir.node("Transpose", [integers], {"perm": [1, 0]})
    product = ir.node("MatMulInteger", [x, transpose.outputs[0], zero_point])
    cast = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    row = ir.node("Transpose", [scales], {"perm": [1, 0]})  # [1, N]
    scale = ir.node("Mul", [x_scale, row.outputs[0]])
    result = ir.node("Mul", [cast.outputs[0], scale.outputs[0]])
    nodes = [quantize, transpose, product, cast, row, scale, result]
    if len(node.inputs) > 2:
        nodes.append(ir.node("Add", [result.outputs[0], node.inputs[2]]))
    return nodes
