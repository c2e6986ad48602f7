"""Operations of a model in place of others: what is cheap to encrypt instead of what is not."""

from __future__ import annotations

from dataclasses import replace

from fheinfer.errors import GraphError
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model
from fheinfer.model.ops import MaxPool, MeanPool

NOTE = "replaced by average pools: measure the accuracy, and fine-tune the network where it fell"
"""What the provenance of such a model says of its max pools."""


def replace_max_pools(model: Model) -> Model:
    """The same with an average pool of the same windows in place of every max pool.

    A mean takes no comparison, only a linear map, but it is another function: accuracy has to be measured again, and
    usually regained by fine-tuning. Ranges are those of other values now, and are left out; the provenance says all
    this. A model without max pools comes back as it is.

    Raises:
        GraphError: a dilated max pool, which no average pool can replace.
    """
    if not any(isinstance(node.op, MaxPool) for node in model.graph):
        return model
    nodes = tuple(_averaged(node) for node in model.graph)
    graph = Graph(model.graph.name, nodes, model.graph.outputs)
    return replace(model.with_ranges({}), graph=graph, provenance={**model.provenance, "max pools": NOTE})


def _averaged(node: Node) -> Node:
    op = node.op
    if not isinstance(op, MaxPool):
        return node
    if op.dilation != (1, 1):
        raise GraphError(
            f"node {node.name!r} (max_pool) is dilated, which no average pool is; train the network without"
        )
    return replace(node, op=MeanPool(op.kernel, op.stride, op.padding, not any(op.padding)))
