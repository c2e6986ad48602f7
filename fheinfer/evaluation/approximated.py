"""A network with polynomials in place of its activations, over batches of inputs, without a plan: in values, not slots.

What a run would compute on any parameter set, but for the noise of encryption. It needs no packing, so that networks of
any size can be measured.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fheinfer.compiler.program import Program
from fheinfer.evaluation.batch import ROUNDING, Overflow, chebyshev
from fheinfer.model.graph import Node
from fheinfer.model.ops import Chebyshev, Op, Quadratic


class Approximated:
    """Runs batches through a program whose activations are polynomials (`compiler.activations.polynomials_of`).

    Attributes:
        reached: activation -> largest |input| of any of its polynomials, 1 being the range.
        beyond: activation -> images with an input beyond the range.
    """

    def __init__(self, program: Program, dtype: torch.dtype = torch.float32) -> None:
        self.program = program
        used = {name for node in program.graph for name in node.op.tensors.values()}
        self.constants = {name: torch.tensor(program.constants[name], dtype=dtype) for name in used}
        self.reached: dict[str, float] = {}
        self.beyond: dict[str, int] = {}
        self._last = {name: index for index, node in enumerate(program.graph) for name in node.inputs}

    @torch.inference_mode()
    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Computes the outputs by name, (B, *shape), of normalised inputs (B, *shape)."""
        graph = self.program.graph
        values: dict[str, Tensor] = {}
        outside: dict[str, Tensor] = {}
        for index, node in enumerate(graph):
            inputs = [values[name] for name in node.inputs] or [x]
            if isinstance(node.op, Chebyshev | Quadratic):
                self._note(node, inputs[0] / node.op.bound, outside)
            values[node.name] = self._value(node.op, inputs)
            for name in node.inputs:
                if self._last[name] == index and name not in graph.outputs:
                    values.pop(name, None)
        for name, images in outside.items():
            self.beyond[name] = self.beyond.get(name, 0) + int(images.sum())
        return {name: values[name] for name in graph.outputs}

    def overflows(self) -> list[Overflow]:
        """Lists the activations that left their range, in the order of the network."""
        return [Overflow(name, n, self.reached[name]) for name, n in self.beyond.items() if n]

    def _value(self, op: Op, inputs: list[Tensor]) -> Tensor:
        tensors = {role: self.constants[name] for role, name in op.tensors.items()}
        if isinstance(op, Chebyshev):
            return chebyshev(inputs[0] / op.bound, tensors["coefficients"]).mul_(op.unit)
        return op.reference(inputs, tensors)

    def _note(self, node: Node, x: Tensor, outside: dict[str, Tensor]) -> None:
        largest = x.abs().flatten(1).amax(1)
        most = float(largest.nan_to_num(torch.inf).max())  # not a number any more: it has left a range before
        self.reached[node.activation] = max(self.reached.get(node.activation, 0.0), most)
        left = ~(largest <= 1 + ROUNDING)
        outside[node.activation] = outside.get(node.activation, left) | left
