"""A graph's module as an ONNX model, whose weights are named as in the model and still in memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from blip.apps.export.graphs import Graph, arguments
from blip_lite.errors import MissingExtra

SMALL = 8192  # values of a constant that may be computed at export; weights stay what they are


def check_packages() -> None:
    """Raises MissingExtra where one of the exporter's packages is not installed."""
    if not all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        raise MissingExtra('export to graphs needs an extra: pip install "blip-vlm[onnx]"')


def translate(graph: Graph, *, opset: int) -> Any:
    """The onnx_ir model of a graph: every free axis by its name, weights as initializers of the module's names."""
    from onnxscript.optimizer import optimize_ir
    from torch.export import Dim

    dims = {axis: Dim(axis) for axes in graph.axes.values() for axis in axes.values()}
    shapes = {name: {i: dims[axis] for i, axis in axes.items()} for name, axes in graph.axes.items()}
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            graph.module.eval(),
            arguments(graph.inputs),
            dynamo=True,
            opset_version=opset,
            optimize=False,
            verbose=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=arguments(shapes),
            custom_translation_table=_translations(),
        )
        assert program is not None
        weights = {name for name, _ in graph.module.named_parameters(remove_duplicate=False)}
        optimize_ir(program.model, input_size_limit=SMALL, should_fold=lambda node: _may_fold(node, weights))
    _strip(program.model)
    return program.model


def _may_fold(node: Any, weights: set[str]) -> bool | None:
    """None: by the optimizer's own rules; never a weight, which would then be stored again in another form."""
    return False if any(value is not None and value.name in weights for value in node.inputs) else None


def _strip(model: Any) -> None:
    """Takes out where in the program each node comes from: five sixths of the file, and paths of this machine."""
    for owner in (model, model.graph):
        owner.metadata_props.clear()
        owner.doc_string = None
    for node in model.graph.all_nodes():
        for owner in (node, *node.outputs):
            owner.metadata_props.clear()
            owner.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _translations() -> dict[Any, Any]:
    return {torch.ops.aten.scaled_dot_product_attention.default: _attention}


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
    """Attention in the fewest operations: the few queries are scaled, not the many keys; masks are bool and never
    hide all, so that no row needs a guard."""
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
def _quietly() -> Iterator[None]:
    """The exporter talks of packages that are not needed here, and of axes that share a name because they should."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
