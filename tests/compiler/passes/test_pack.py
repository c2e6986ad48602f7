"""Every value gets its layout."""

from __future__ import annotations

import dataclasses

import pytest

from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.fold_batch_norm import fold_batch_norm
from fheinfer.compiler.passes.fold_pool import fold_pool
from fheinfer.compiler.passes.pack import pack
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import GraphError, PlanError
from fheinfer.frontends import zoo
from fheinfer.model.ops import Conv2d, Linear
from tests.compiler.programs import nodes_of, packed, program, run


def test_strides_widen_the_gap_and_keep_the_grid() -> None:
    made = packed("resnet20", params=parameter_set(1))
    convolutions = [made.layouts[n.name] for n in nodes_of(made, Conv2d)]
    assert {(layout.channels, layout.gap) for layout in convolutions} == {(16, 1), (32, 2), (64, 4)}
    images = [made.layouts[n.name] for n in made.graph if not isinstance(n.op, Linear)]
    assert {(layout.grid_height, layout.grid_width) for layout in images} == {(32, 32)}


def test_only_the_output_is_masked() -> None:
    made = packed("checkerboard", params=parameter_set(1))
    assert [n.op.mask for n in nodes_of(made, Linear) if isinstance(n.op, Linear)] == [False, False, True]


def test_a_layer_of_more_slots_than_the_set_has_is_refused() -> None:
    with pytest.raises(
        PlanError, match=r"node 'input' needs 4096 slots; set insecure-tiny has 512; choose a set that has as many: 1, "
    ):
        run(program(zoo.network("resnet20")), fold_batch_norm, fold_pool, approximate, pack)


def test_what_a_pass_left_behind_is_named_with_its_stage() -> None:
    start = program(zoo.network("vgg11"), dataclasses.replace(parameter_set(1), slots=1 << 20))
    with pytest.raises(GraphError, match=r"node 'stage1.pool' \(max_pool\) is not an operation of this stage"):
        run(start, fold_batch_norm, approximate)
