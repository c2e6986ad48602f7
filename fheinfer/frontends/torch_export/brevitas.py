"""Networks with layers of Brevitas as plain ones, whose weights are the numbers that the quantised ones represent.

Encrypted values are real numbers, which nothing rounds. So weights and biases are exact, and activations keep their
clipping range but not the steps inside, from which they differ by half a step at most. Layers are recognised by the
name of their class; Brevitas itself is not imported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fheinfer.data.files import one_line, printable
from fheinfer.errors import GraphError, InputError
from fheinfer.frontends.torch_export.brevitas_layers import MAKERS, QUANTISERS, Layer, values
from fheinfer.frontends.torch_export.exporting import attempt, evaluating, quiet


@dataclass(frozen=True)
class Plain:
    """A network without layers of Brevitas, and what was made of them; no note where there were none."""

    net: nn.Module
    note: str = ""


def plain(net: nn.Module, example: Tensor) -> Plain:
    """A network with every layer of Brevitas replaced by one of PyTorch under the same name; `net` stays as it is.

    Args:
        example: an input (1, ...), on which the network is run: the scale of a quantised bias is that of its input.

    Raises:
        GraphError: a layer of Brevitas that is not supported, or that cannot be written without its quantisers.
        InputError: the network does not take the example, or cannot be copied.
    """
    layers = list(_layers(net))
    if not layers:
        return Plain(net)
    with evaluating(net):
        with _recorded(layers):
            expected = values(attempt(net, example))
        with quiet():
            made: dict[int, Any] = {id(layer.module): MAKERS[layer.kind](layer) for layer in layers if layer.was_run}
    count = len(made)
    try:
        found = copy.deepcopy(net, made)  # wherever the copy would hold a layer of Brevitas, it holds the plain one
    except Exception as error:  # modules with state of their own cannot always be copied
        raise InputError(f"{type(net).__name__} cannot be copied: {one_line(error)}") from None
    try:
        with evaluating(found):
            got = values(attempt(found, example))
    except InputError as error:
        raise GraphError(
            f"without the layers of Brevitas: {error}; a network may not read the fields of quantised tensors"
        ) from None
    return Plain(found, _note(count, expected, got))


def _note(count: int, expected: Any, got: Any) -> str:
    words = f"Brevitas: {count} layers with the weights that their bits represent; activations are clipped, not rounded"
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor):
        return words
    error = float((got - expected).abs().max()) / max(float(expected.abs().max()), 1e-6)
    return f"{words}, by which outputs on the example differ by {error:.2g} of the largest"


def _layers(net: nn.Module) -> Iterator[Layer]:
    inside = None
    for path, module in net.named_modules():
        kinds: list[type[Any]] = [kind for kind in type(module).__mro__ if kind.__module__.startswith("brevitas.nn")]
        if not kinds or (inside is not None and path.startswith(f"{inside}." if inside else "")):
            continue  # what is inside of a layer goes with it
        inside = path
        name = kinds[0].__name__
        where = f"module {printable(path, 150)!r}" if path else "the network"
        layer = Layer(module, name, f"{where} ({name} of Brevitas)")
        if name not in MAKERS:
            layer.fail(f"is not supported; layers of Brevitas that are: {', '.join(MAKERS)}")
        if type(module).forward is not kinds[0].forward:
            layer.fail("has a forward of its own class; build it of the layers themselves")
        yield layer


@contextmanager
def _recorded(layers: Iterable[Layer]) -> Iterator[None]:
    """Keeps what the quantisers of layers take and return meanwhile."""
    hooks = []
    for layer in layers:
        hooks.append(layer.module.register_forward_hook(layer.ran))
        for name in QUANTISERS:
            quantiser = getattr(layer.module, name, None)
            if isinstance(quantiser, nn.Module):
                hooks.append(quantiser.register_forward_hook(layer.recorder(name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
