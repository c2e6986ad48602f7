"""A sum of two linear operations of one value is one operation."""

from __future__ import annotations

from typing import Any

import pytest

from fheinfer.compiler.passes.merge_shortcuts import merge_shortcuts
from fheinfer.model import ops
from tests.compiler.canonical import became, built, conv, linear

pytest.importorskip("torch")
RELU = ("relu", ops.Relu())


@pytest.mark.parametrize(("stride", "kernel", "shortcut"), [(1, 3, None), (1, 5, 1), (2, 3, 1), (2, 5, 3), (1, 1, 3)])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_merged_shortcut(stride: int, kernel: int, shortcut: int | None, swapped: bool, groups: int) -> None:
    nodes: list[Any] = [RELU, conv("a", 4, kernel, stride, kernel // 2, groups=groups)]
    other = "relu"
    if shortcut:
        nodes.append((*conv("b", 4, shortcut, stride, shortcut // 2, groups=groups), "relu"))
        other = "b"
    nodes.append(("sum", ops.Add(), f"{other} a" if swapped else f"a {other}"))
    start = built((4, 8, 8), *nodes)
    assert became(start, merge_shortcuts) == ["relu", "conv2d"]
    assert merge_shortcuts(start).graph.output.name == "sum"


def test_rectangular_and_dilated_kernels() -> None:
    wide = ("a", ops.Conv2d(4, (1, 5), 1, (0, 0, 2, 2), "a.weight"))
    tall = ("b", ops.Conv2d(4, (3, 1), 1, (1, 1, 0, 0), "b.weight"), "input")
    far = ("b", ops.Conv2d(4, 3, 1, 2, "b.weight", dilation=2), "input")
    near = conv("a", 4, 1)
    add = ("sum", ops.Add(), "a b")
    assert became(built((4, 8, 8), wide, tall, add), merge_shortcuts) == ["conv2d", "conv2d", "add"]  # 15 for 8 offsets
    assert became(built((4, 8, 8), near, far, add), merge_shortcuts) == ["conv2d"]
    assert became(built((4, 8, 8), wide, (*conv("b", 4, 1), "input"), add), merge_shortcuts) == ["conv2d"]


def test_linear_layers_of_one_value() -> None:
    start = built((6,), linear("a", 4), (*linear("b", 4), "input"), ("sum", ops.Add(), "a b"))
    assert became(start, merge_shortcuts) == ["linear"]


def test_what_others_read_and_what_reads_other_values_is_left() -> None:
    a = conv("a", 4, 3, padding=1)
    again = [a, ("sum", ops.Add(), "a input"), ("again", ops.Add(), "sum a")]
    assert became(built((4, 8, 8), *again), merge_shortcuts) == ["conv2d", "add", "add"]
    another = [a, ("relu", ops.Relu(), "input"), (*conv("b", 4, 3, padding=1), "relu"), ("sum", ops.Add(), "a b")]
    assert became(built((4, 8, 8), *another), merge_shortcuts) == ["conv2d", "relu", "conv2d", "add"]
    depthwise = [RELU, conv("a", 4, 3, padding=1, groups=4), (*conv("b", 4, 1), "relu"), ("sum", ops.Add(), "a b")]
    assert became(built((4, 8, 8), *depthwise), merge_shortcuts) == ["relu", "conv2d", "conv2d", "add"]
