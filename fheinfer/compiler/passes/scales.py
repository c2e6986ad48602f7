"""Decides by how much each node's slots are smaller than its values (value = slot * scale, one number or one per
channel), and folds every factor into weights and coefficients, so that no level is spent on scaling.

A polynomial needs its input in [-1, 1]: the node before it gets scale B, its range. Its output may have any scale for
free, by its coefficients; so may that of a product, by those of its second factor. Both addends of a sum need the scale
of the sum.

c2 x^2 + c1 x + c0 = c2 (x + h)^2 + k, so with x / R + h / R in the slots a quadratic is one square and one constant,
and its output has the scale c2 R^2 of its own, negative or not. R makes slots as large as the set allows
(`ParameterSet.max_slot`), because noise is as large whatever the slots are. Where a sum asks for another scale, the
addend gets its channels scaled: one level, beside the convolution on the other branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fheinfer.compiler.magnitudes import is_open
from fheinfer.compiler.maps import LINEAR
from fheinfer.compiler.program import Program
from fheinfer.compiler.values import F64, Scale
from fheinfer.compiler.view_arrays import compressed
from fheinfer.compiler.views import VIEWS, rearranged
from fheinfer.errors import PlanError
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.packing import canonical, spread


def scales(program: Program) -> Program:
    """Gives every value its scale and folds the factors into constants; one level where one has to be scaled by itself.

    Raises:
        PlanError: a quadratic with a channel that is linear.
    """
    return _Scales(program).run()


def same(a: Scale, b: Scale) -> bool:
    """Whether two scales are equal to within rounding."""
    return bool(np.allclose(a, b, rtol=1e-12, atol=0))


class _Scales:
    def __init__(self, program: Program) -> None:
        self.program, self.graph, self.shapes = program, program.graph, program.graph.shapes
        self.constants = dict(program.constants)
        self.packings = dict(program.packings)
        self.nodes: list[Node] = []
        self.of: dict[str, Scale] = {}
        self.max_slot = program.params.max_slot
        self.largest: dict[str, float] = {}  # slot of each node
        self.open: set[str] = set()  # values beside whose elements slots may hold more
        self._visits: dict[type[ops.Op], Callable[[Node, Any], tuple[Node, Scale]]] = {
            ops.Input: self._input,
            ops.Conv2d: self._layer,
            ops.ConvTranspose2d: self._layer,
            ops.Linear: self._layer,
            ops.Resample: self._layer,
            ops.Repack: self._layer,
            ops.Chebyshev: self._chebyshev,
            ops.Multiply: self._multiply,
            ops.Quadratic: self._quadratic,
            ops.Add: self._add,
            ops.AddConstant: self._add_constant,
            ops.MultiplyConstant: self._multiply_constant,
            ops.SumPool: self._sum_pool,
            **dict.fromkeys(VIEWS, self._view),
        }

    def run(self) -> Program:
        for node in self.graph:
            made, self.of[node.name] = self._visits[type(node.op)](node, node.op)
            self.largest[node.name] = self._largest(made)
            sources = [self.packings[name] for name in made.inputs]
            if is_open(made.op, sources, self.packings[node.name], [name in self.open for name in made.inputs]):
                self.open.add(node.name)
            self.nodes.append(made)
        for name in self.graph.outputs:
            self._output(name)
        graph = Graph(self.graph.name, tuple(self.nodes), self.graph.outputs)
        program = replace(self.program, graph=graph, constants=self.constants)
        return replace(program, scales=self.of, packings=self.packings)

    def _output(self, name: str) -> None:
        """A client reads outputs of one positive scale, under their own names."""
        scale = float(np.abs(self.of[name]).max())
        if same(self.of[name], scale):
            self.of[name] = scale
            return
        brought = self._brought_to(name, scale, Node("output", ops.Reshape(self.shapes_of(name))))
        new = {name: f"{name}/unscaled", brought: name}
        self.nodes = [
            replace(node, name=new.get(node.name, node.name), inputs=tuple(new.get(i, i) for i in node.inputs))
            for node in self.nodes
        ]
        self.of = {new.get(node, node): value for node, value in self.of.items()}
        self.packings = {new.get(node, node): value for node, value in self.packings.items()}
        self.largest = {new.get(node, node): value for node, value in self.largest.items()}

    def _largest(self, node: Node) -> float:
        if isinstance(node.op, ops.Input | ops.Chebyshev):
            return 1.0
        if isinstance(node.op, ops.Square):
            return self.max_slot**2
        if isinstance(node.op, LINEAR) and self._required(node.name) is None:
            return self.max_slot**2  # the scale of `_bound`
        if isinstance(node.op, ops.SumPool):
            return self.largest[node.inputs[0]] * math.prod(self.shapes_of(node.inputs[0])[1:])
        unchanged = isinstance(node.op, VIEWS)
        return max(self.largest[name] for name in node.inputs) if unchanged else self.max_slot

    def _input(self, node: Node, op: ops.Input) -> tuple[Node, Scale]:
        return node, self.program.input_bound

    def _layer(self, node: Node, op: Any) -> tuple[Node, Scale]:
        """A linear layer takes any scales, one for each input and output channel."""
        source = node.inputs[0]
        if not isinstance(op, ops.Linear):
            source = self._by_channel(source, node)
            node = replace(node, inputs=(source,))
        into, asked = self._flat(self.of[source], self.shapes_of(source), op), self._required(node.name)
        if asked is not None and _pixels_differ(asked, self.shapes[node.name]):
            asked = float(np.abs(asked).max())
        if asked is None and isinstance(op, ops.Repack):
            # Sums of pixels are larger than a pixel may be, and an output has to fit the last prime.
            over = max(1.0, self.largest[source] / self.max_slot**2)
            asked = self.of[source] * over
            if over == 1:
                return node, asked
        out = self._bound(node, op) if asked is None else asked
        outs = np.broadcast_to(np.ravel(out), canonical(self.shapes[node.name])[0])
        return self._scaled(node, op, into, outs), out

    def shapes_of(self, name: str) -> tuple[int, ...]:
        """The shape of a value, of one that was added here too."""
        return self.packings[name].shape

    def _flat(self, scale: Scale, shape: tuple[int, ...], op: ops.Op) -> F64:
        """One number per input channel, or per feature of a linear layer."""
        whole = np.broadcast_to(spread(scale, shape), shape)
        return whole.reshape(-1) if isinstance(op, ops.Linear) else whole.reshape(canonical(shape)[0], -1)[:, 0]

    def _scaled(self, node: Node, op: Any, into: F64, outs: F64) -> Node:
        """The layer with its factors: every weight times the scale of its input, over that of its output."""
        changed: dict[str, Any] = {}
        if isinstance(op, ops.Resample | ops.Repack):
            role = "gain" if isinstance(op, ops.Resample) else "factor"
            name = getattr(op, role)
            factor = (self.constants[name] if name else 1.0) * into / outs
            if name or not same(factor, 1.0):
                changed[role] = f"{node.name}/scaled_{role}"
                self.constants[changed[role]] = factor
            return replace(node, op=replace(op, **changed))
        changed["weight"] = f"{node.name}/scaled_weight"
        self.constants[changed["weight"]] = self.constants[op.weight] * _factors(op, into, outs)
        if op.bias:
            changed["bias"] = f"{node.name}/scaled_bias"
            self.constants[changed["bias"]] = self.constants[op.bias] / outs
        return replace(node, op=replace(op, **changed))

    def _chebyshev(self, node: Node, op: ops.Chebyshev) -> tuple[Node, Scale]:
        node = replace(node, inputs=(self._brought_to(node.inputs[0], op.bound, node, closed=True),))
        asked = self._required(node.name)
        out = asked if isinstance(asked, float) else op.unit
        name = f"{node.name}/scaled_coefficients"
        self.constants[name] = self.constants[op.coefficients] * (op.unit / out)
        return replace(node, op=replace(op, coefficients=name)), out

    def _multiply(self, node: Node, op: ops.Multiply) -> tuple[Node, Scale]:
        x, y = node.inputs
        x = self._brought_to(x, op.bound, node, closed=True)
        if op.second is not None:
            asked = self._asked_by(node, y)
            y = self._brought_to(y, asked if isinstance(asked, float) else op.second, node, closed=True)
        return replace(node, inputs=(x, y)), self.of[x] * self.of[y]

    def _quadratic(self, node: Node, op: ops.Quadratic) -> tuple[Node, Scale]:
        rank = len(self.shapes[node.name])
        c0, c2 = self.constants[op.c0], self.constants[op.c2]
        h, unit = self._square(node.name, op)
        square = np.where(c2 != 0, c2 * np.where(c2 != 0, unit, 1) ** 2, 1.0)
        made = ops.Square(f"{node.name}/shift", f"{node.name}/constant", op.bound)
        self.constants[made.shift] = h / unit
        self.constants[made.constant] = (c0 - c2 * h**2) / square
        source = self._brought_to(node.inputs[0], _axis(unit, rank), node, closed=True)
        return replace(node, op=made, inputs=(source,)), _axis(square, rank)

    def _add(self, node: Node, op: ops.Add) -> tuple[Node, Scale]:
        asked = self._required(node.name)
        out = self.of[node.inputs[0]] if asked is None else asked
        return replace(node, inputs=tuple(self._brought_to(name, out, node) for name in node.inputs)), out

    def _add_constant(self, node: Node, op: ops.AddConstant) -> tuple[Node, Scale]:
        asked, source = self._required(node.name), node.inputs[0]
        if asked is not None:
            source = self._brought_to(source, asked, node)
        name = f"{node.name}/scaled_value"
        scaled = np.asarray(self.constants[op.value] / spread(self.of[source], self.shapes[node.name]))
        shape = (1,) * (len(self.shapes[node.name]) - scaled.ndim) + scaled.shape
        self.constants[name] = scaled.reshape(shape)
        return replace(node, op=ops.AddConstant(name, shape), inputs=(source,)), self.of[source]

    def _multiply_constant(self, node: Node, op: ops.MultiplyConstant) -> tuple[Node, Scale]:
        """Another scale of the same slots, for nothing, unless a user asks for one that differs."""
        shape, source = self.shapes[node.name], node.inputs[0]
        product = spread(self.of[source], shape) * self.constants[op.value]
        asked = self._required(node.name)
        if (asked is None or same(asked, product)) and np.all(product):
            return Node(node.name, ops.Reshape(shape), node.inputs, node.activation, node.module), _small(product)
        out = float(np.abs(product).max()) or 1.0 if asked is None else asked
        return self._multiplied(node, product / spread(out, shape)), out

    def _multiplied(self, node: Node, factor: F64) -> Node:
        shape = (1,) * (len(self.shapes[node.name]) - factor.ndim) + factor.shape
        name = f"{node.name}/factor"
        self.constants[name] = factor.reshape(shape)
        return replace(node, op=ops.MultiplyConstant(name, shape))

    def _view(self, node: Node, op: ops.Op) -> tuple[Node, Scale]:
        scales_ = [self.of[name] for name in node.inputs]
        if all(isinstance(s, float) and same(s, scales_[0]) for s in scales_):
            return node, scales_[0]
        arrays = [np.broadcast_to(spread(self.of[n], self.shapes[n]), self.shapes[n]) for n in node.inputs]
        return node, _small(rearranged(op, arrays))

    def _sum_pool(self, node: Node, op: ops.SumPool) -> tuple[Node, Scale]:
        """The scale of what is summed: one for all pixels of a channel."""
        source = self._by_channel(node.inputs[0], node)
        scale = self.of[source]
        return replace(node, inputs=(source,)), scale if isinstance(scale, float) else np.ravel(scale)

    def _brought_to(self, name: str, out: Scale, user: Node, *, closed: bool = False) -> str:
        """The value itself where its scale is `out`, else a new node that multiplies it.

        So does one that is to be `closed`, with zeros beside its elements: beyond [-1, 1] a polynomial grows beyond
        what a modulus holds, in whichever slot.
        """
        shape = self.shapes_of(name)
        wanted, have = spread(out, shape), spread(self.of[name], shape)
        equal = same(np.broadcast_to(have, shape), np.broadcast_to(wanted, shape))
        if equal and not (closed and name in self.open):
            return name
        scaled = f"{user.name}/{name}"
        factor = compressed(np.ones(shape) if equal else np.broadcast_to(have / wanted, shape))
        self.constants[f"{scaled}/factor"] = factor
        self.of[scaled], self.packings[scaled] = out, self.packings[name]
        self.largest[scaled] = self.max_slot
        self.nodes.append(
            Node(scaled, ops.MultiplyConstant(f"{scaled}/factor", factor.shape), (name,), module=user.module)
        )
        return scaled

    def _by_channel(self, name: str, user: Node) -> str:
        """The value with one scale for all pixels of a channel."""
        scale, shape = self.of[name], self.shapes_of(name)
        if not _pixels_differ(scale, shape):
            return name
        return self._brought_to(name, float(np.abs(scale).max()), user)

    def _required(self, name: str) -> Scale | None:
        """The scale that a node's users ask of it: that of the polynomial it feeds, directly or through sums.

        Where they ask for several, it is the largest single number, and the others multiply.
        """
        asked = [s for user in self.graph.users(name) if (s := self._asked_by(user, name)) is not None]
        if not asked or all(same(asked[0], other) for other in asked[1:]):
            return asked[0] if asked else None
        return float(max(np.max(np.where(np.isinf(s), 0, s)) for s in asked))

    def _asked_by(self, user: Node, name: str) -> Scale | None:
        op = user.op
        if isinstance(op, ops.Chebyshev):
            return float(op.bound)
        if isinstance(op, ops.Quadratic):
            return _axis(self._square(user.name, op)[1], len(self.shapes[name]))
        if isinstance(op, ops.Add):
            asked = self._required(user.name)
            known = [self.of[other] for other in user.inputs if other != name and other in self.of]
            return known[0] if asked is None and known else asked  # that of the other addend, which is there already
        if isinstance(op, ops.AddConstant):
            return self._required(user.name)
        if isinstance(op, VIEWS):
            asked = self._required(user.name)
            return asked if isinstance(asked, float) else None
        if isinstance(op, ops.Multiply):
            asked = self._required(user.name)
            if name == user.inputs[0]:
                return float(op.bound) if op.second is not None else None
            if op.second is None:
                return asked / op.bound if isinstance(asked, float) else None
            return max(op.second, asked / op.bound) if isinstance(asked, float) else op.second
        return None

    def _bound(self, node: Node, op: Any) -> float:
        """Scale of the output of a layer that feeds no activation: the largest row of |W| times the largest input is
        what slots reach."""
        name = node.inputs[0]
        into = self.largest[name] * np.abs(self._flat(self.of[name], self.shapes_of(name), op))
        if isinstance(op, ops.Resample):
            gain = np.abs(self.constants[op.gain]) if op.gain else 1.0
            reach = [np.abs(self.constants[part]).sum(axis=1).max() for part in (op.rows, op.columns)]
            return float((into * gain).max() * reach[0] * reach[1] or 1.0) / self.max_slot**2
        weight = np.abs(self.constants[op.weight])
        channels = canonical(self.shapes[node.name])[0]
        products = weight * _factors(op, into, np.ones(channels))
        if isinstance(op, ops.ConvTranspose2d):
            rows = products.reshape(op.groups, -1, *products.shape[1:]).sum(axis=(1, 3, 4)).ravel()
        else:
            rows = products.reshape(len(products), -1).sum(axis=1)
        bias = np.abs(self.constants[op.bias]) if op.bias else 0.0
        return (float((rows + bias).max()) or 1.0) / self.max_slot**2

    def _square(self, name: str, op: ops.Quadratic) -> tuple[F64, F64]:
        """h, and R per channel: x + h is at most R times `max_slot`; infinite for a constant, whose weights become
        zero."""
        c1, c2 = self.constants[op.c1], self.constants[op.c2]
        if bool(((c2 == 0) & (c1 != 0)).any()):
            raise PlanError(f"a channel of quadratic activation {name!r} is linear, which no square can compute")
        h = np.divide(c1, 2 * c2, out=np.zeros_like(c1), where=c2 != 0)
        return h, np.where(c2 != 0, (op.bound + np.abs(h)) / self.max_slot, np.inf)


def _factors(op: Any, into: F64, outs: F64) -> F64:
    """What each weight of a layer is multiplied by, in a shape that broadcasts to the weights."""
    if isinstance(op, ops.Linear):
        return into[None, :] / outs[:, None]
    groups = op.groups
    if isinstance(op, ops.ConvTranspose2d):  # (in, out / groups, ...)
        rows = np.repeat(outs.reshape(groups, -1), len(into) // groups, axis=0)
        return (into[:, None] / rows)[:, :, None, None]
    columns = np.repeat(into.reshape(groups, -1), len(outs) // groups, axis=0)
    return (columns / outs[:, None])[:, :, None, None]


def _axis(values: F64, rank: int) -> F64:
    """One number per channel, for a value of that rank."""
    return values.reshape(-1, *[1] * (rank - 1))


def _pixels_differ(scale: Scale, shape: tuple[int, ...]) -> bool:
    array = spread(scale, shape)
    return array.ndim > 1 and array.size > array.shape[0]


def _small(array: F64) -> Scale:
    """A scale in as few numbers as it takes."""
    small = compressed(array)
    return float(small.ravel()[0]) if small.size == 1 else small
