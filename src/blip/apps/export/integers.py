"""Products of 8-bit integers: a linear layer whose weight is stored as int8 multiplies that weight as it lies.

Its input is brought to 8 bits when it runs, one scale for the whole batch: faster where the processor multiplies bytes,
and less exact, so that a result may change with the company it is computed in. Everything else (convolutions,
attention, norms) stays in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Stored(NamedTuple):
    """An int8 weight [N, K] of a graph and its scales [N, 1] in float32."""

    integers: Any
    scales: Any


def to_integers(model: Any) -> None:
    """Rewrites the linear layers of an onnx_ir model whose weights `weights.refer` has made references to int8."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in list(model.graph):
        weight = _weight(node)
        if weight is None:
            continue
        nodes = _product(node, weight)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], nodes, node.outputs, nodes[-1].outputs)
    RemoveUnusedNodesPass()(model)


def _weight(node: Any) -> Stored | None:
    """The stored weight of a linear layer; None for any other node."""
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0):
        value = node.inputs[1]
    elif node.op_type == "MatMul" and _made_by(node.inputs[1]) == "Transpose":
        value = node.inputs[1].producer().inputs[0]
    else:
        return None
    if _made_by(value) != "Mul" or [_made_by(x) for x in value.producer().inputs] != ["Cast", "Cast"]:
        return None
    integers, scales = value.producer().inputs
    return Stored(integers.producer().inputs[0], scales)


def _made_by(value: Any) -> str | None:
    producer = value.producer()
    return None if producer is None else str(producer.op_type)


def _product(node: Any, weight: Stored) -> list[Any]:
    """x @ weight.T (+ bias) by integers: the nodes in their order."""
    import onnx_ir as ir

    quantized = ir.node("DynamicQuantizeLinear", [node.inputs[0]], num_outputs=3)
    x, scale, zero = quantized.outputs
    turned = ir.node("Transpose", [weight.integers], {"perm": [1, 0]})
    product = ir.node("MatMulInteger", [x, turned.outputs[0], zero])
    number = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    row = ir.node("Transpose", [weight.scales], {"perm": [1, 0]})  # [1, N]
    scales = ir.node("Mul", [scale, row.outputs[0]])
    nodes = [quantized, turned, product, number, row, scales, ir.node("Mul", [number.outputs[0], scales.outputs[0]])]
    if len(node.inputs) > 2:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], node.inputs[2]]))
    return nodes
