"""Every activation becomes polynomials under its name."""

from __future__ import annotations

import dataclasses

import pytest

from fheinfer.approx import activation, names
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.canonicalise import canonicalise
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.program import Program
from fheinfer.errors import PlanError, UsageError
from fheinfer.frontends import zoo
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.ops import Chebyshev, Relu
from tests.compiler.programs import BOTH, kinds, nodes_of, packed, program, run, scaled, small, with_levels


def depth(made: Program, name: str) -> int:
    """Levels of all steps of one activation, each checked by the trace evaluator."""
    steps = [made.step(node) for node in made.graph if node.activation == name]
    assert steps
    for step in steps:
        made.trace(step)  # raises where the kernels consume another number of levels
    return sum(step.depth for step in steps)


@pytest.mark.parametrize(("params", "backend"), BOTH, ids=["native", "openfhe"])
@pytest.mark.parametrize("name", [*(n for n in names() if activation(n).function == "ReLU"), "square"])
def test_levels_of_a_plan_are_those_of_the_registry(name: str, params: object, backend: str) -> None:
    about, made = activation(name), scaled(activation=name, params=with_levels(20), backend=backend)
    for relu in nodes_of(program(zoo.network("resnet8-tiny")), Relu):
        assert depth(made, relu.name) == (about.levels if backend == "native" else about.openfhe_levels)


@pytest.mark.parametrize("kind", ["silu", "gelu"])
@pytest.mark.parametrize("bound", [1.0, 8.0, 20.0])
def test_levels_of_smooth_activations_are_those_of_the_registry(kind: str, bound: float) -> None:
    made = small(lambda g: g.activation(kind, g.conv2d("conv", "input", 4, 3), "smooth"), params=with_levels(20))
    made = run(dataclasses.replace(made, ranges={"smooth": bound}), approximate, pack, scales)
    (node,) = nodes_of(made, Chebyshev)
    assert isinstance(node.op, Chebyshev)
    degree = len(made.constants[node.op.coefficients]) - 1
    assert depth(made, "smooth") == activation(f"{kind}:{degree}:{node.op.bound}").levels


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("relu:59", ["chebyshev"]),
        ("f1", ["chebyshev", "multiply"]),
        ("minimax:10", ["chebyshev", "chebyshev", "chebyshev", "multiply"]),
        ("relu-aq", ["quadratic"]),
    ],
)
def test_an_activation_becomes_polynomials_under_its_name(name: str, ops: list[str]) -> None:
    made = packed(activation=name)
    group = [node for node in made.graph if node.activation == "layer2.0.relu1"]
    assert kinds(group) == ops
    assert group[-1].name == "layer2.0.relu1"
    assert group[0].inputs == ("layer2.0.bn1",)
    if ops[-1] == "multiply":
        assert group[-1].inputs == ("layer2.0.bn1", group[-2].name)
    assert not nodes_of(made, Relu)


@pytest.mark.parametrize("name", ["silu:31:8", "max:minimax:10", "maxpool2:minimax:10"])
def test_what_is_no_relu_cannot_approximate_one(name: str) -> None:
    with pytest.raises(PlanError, match=r"does not approximate the ReLU 'relu1'.*approx list"):
        packed(activation=name)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(UsageError, match="no activation 'tanh'"):
        packed(activation="tanh")


def test_a_range_that_is_missing_is_named() -> None:
    start = program(zoo.network("resnet8-tiny"))
    start = dataclasses.replace(start, ranges={k: v for k, v in start.ranges.items() if k != "layer2.0.relu1"})
    with pytest.raises(PlanError, match=r"no range is known for the activation 'layer2\.0\.relu1'"):
        run(start, canonicalise, approximate)


def test_a_smooth_activation_over_too_wide_a_range_is_refused() -> None:
    def build(g: GraphBuilder) -> str:
        return g.activation("sigmoid", g.conv2d("conv", "input", 4, 3), "smooth")

    wide = dataclasses.replace(small(build), ranges={"smooth": 1e5})
    with pytest.raises(PlanError, match="the range 1e\\+05 of the activation 'smooth' is too large for sigmoid"):
        run(wide, approximate)


@pytest.mark.parametrize("factor", [1e6, 1e300])
def test_an_implausible_range_is_refused(factor: float) -> None:
    start = program(zoo.network("resnet8-tiny"))
    wide = dataclasses.replace(start, ranges=dict(start.ranges) | {"relu1": factor})
    with pytest.raises(PlanError, match=r"of activation 'relu1' is .* times the median of all ranges"):
        run(wide, canonicalise, approximate)
