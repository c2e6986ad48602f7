"""Padding with zeros, alone and before convolutions."""

from __future__ import annotations

import pytest

from fheinfer.compiler.passes.canonicalise import canonicalise
from fheinfer.compiler.passes.lower_pads import lower_pads
from fheinfer.errors import GraphError
from fheinfer.model import ops
from fheinfer.model.ops import Shape
from tests.compiler.canonical import became, built, conv

pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((3,), (1, 2)),
        ((3, 4), (0, 0, 2, 1)),
        ((3, 4), (1, 0, 2, 1)),
        ((3, 4, 5), (0, 0, 1, 2, 3, 4)),
        ((3, 4, 5), (2, 1, 0, 0, 0, 0)),
        ((3, 4, 5), (2, 1, 1, 1, 0, 2)),
        ((2, 3, 4, 5), (0, 0, 0, 0, 1, 0, 0, 2)),
    ],
)
def test_a_pad_is_a_convolution_of_one_pixel(shape: Shape, sides: tuple[int, ...]) -> None:
    assert "conv2d" in became(built(shape, ("relu", ops.Relu()), ("pad", ops.Pad(sides))), lower_pads)


def test_too_many_axes_are_refused() -> None:
    with pytest.raises(GraphError, match=r"'pad' .* pads a value of 5 axes on too many"):
        lower_pads(built((2, 2, 2, 2, 2), ("pad", ops.Pad((1, 0) * 5))))


def test_a_pad_goes_into_all_convolutions_that_read_it() -> None:
    start = built(
        (3, 6, 5),
        ("pad", ops.Pad((0, 0, 1, 2, 0, 1))),
        conv("a", 2, 3, padding=1),
        (*conv("b", 2, 3, padding=1), "pad"),
        ("tanh", ops.Tanh(), "b"),
        ("sum", ops.Add(), "a tanh"),
    )
    assert became(start, canonicalise) == ["conv2d", "conv2d", "tanh", "add"]


def test_a_shortcut_that_skips_pixels_and_pads_channels_is_one_convolution() -> None:
    start = built(
        (3, 8, 8),
        ("rows", ops.Slice(1, 0, 8, 2)),
        ("columns", ops.Slice(2, 0, 8, 2)),
        ("pad", ops.Pad((1, 2, 0, 0, 0, 0))),
        ("tanh", ops.Tanh()),
    )
    assert became(start, canonicalise) == ["conv2d", "tanh"]
