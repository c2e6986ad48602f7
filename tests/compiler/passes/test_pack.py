"""Every value gets its packing."""

from __future__ import annotations

import dataclasses

import pytest

from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.canonicalise import canonicalise
from fheinfer.compiler.passes.pack import pack
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import GraphError, PlanError
from fheinfer.frontends import zoo
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.ops import Conv2d, Linear
from tests.compiler.programs import nodes_of, packed, program, run


def test_strides_widen_the_gap_and_keep_the_grid() -> None:
    made = packed("resnet20", params=parameter_set(1))
    convolutions = [made.packings[n.name] for n in nodes_of(made, Conv2d)]
    assert {(packing.shape[0], packing.gap) for packing in convolutions} == {(16, (1, 1)), (32, (2, 2)), (64, (4, 4))}
    images = [made.packings[n.name] for n in made.graph if not isinstance(n.op, Linear)]
    assert {(packing.block, packing.width) for packing in images} == {(1024, 32)}


def test_a_network_larger_than_the_slots_takes_several_ciphertexts() -> None:
    made = run(program(zoo.network("resnet20")), canonicalise, approximate, pack)
    assert made.packings["input"].ciphertexts == 6  # three channels of 32 x 32 pixels in 512 slots
    assert made.packings["bn1"].ciphertexts == 32
    assert made.packings["fc"].ciphertexts == 1


def test_a_row_longer_than_the_slots_is_refused_with_the_layer() -> None:
    wide = GraphBuilder("wide", (1, 2, 1000))
    wide.linear("end", wide.conv2d("c", "input", 1, 3), 2)
    message = r"node 'input' \(input\): a row of 1000 pixels needs 1024 slots and there are 512"
    with pytest.raises(PlanError, match=message):
        run(program(wide.build()), canonicalise, approximate, pack)


def test_what_a_pass_left_behind_is_named_with_its_stage() -> None:
    start = program(zoo.network("vgg11"), dataclasses.replace(parameter_set(1), slots=1 << 20))
    with pytest.raises(GraphError, match=r"node 'stage1.pool' \(max_pool\) is not an operation of this stage"):
        run(start, canonicalise, approximate)
