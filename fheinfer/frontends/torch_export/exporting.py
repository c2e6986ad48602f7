"""A module of PyTorch as an exported program of one input at a time, in the operations that are known here."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fheinfer.data.files import one_line
from fheinfer.errors import FheinferError, GraphError, InputError, WeightsError
from fheinfer.frontends.torch_export.importer import OPERATIONS
from fheinfer.frontends.torch_export.refusals import ADVICE


def example_of(example: Any) -> Tensor:
    """One input (1, *shape) of an example, or of a batch of them.

    Raises:
        InputError: no single tensor of real numbers with a batch axis.
    """
    if isinstance(example, tuple | list) and len(example) == 1:
        example = example[0]
    if isinstance(example, tuple | list | dict) and _tensors_only(example):
        raise InputError(
            f"the example is {len(example)} inputs; a network has one tensor as its input: join several into one"
        )
    if not isinstance(example, Tensor):
        raise InputError(
            f"the example is of the type {type(example).__name__}; give a torch tensor, such as "
            "torch.zeros(1, 3, 32, 32)"
        )
    if example.dim() < 2 or min(example.shape) < 1:
        raise InputError(
            f"the example has the shape {tuple(example.shape)}; its first axis is the batch, as in (1, 3, 32, 32) or "
            "(1, 30)"
        )
    if not example.dtype.is_floating_point:
        raise InputError(f"the example holds {example.dtype}; give floating-point numbers, as the network takes them")
    return example[:1].detach().cpu().clone()


def _tensors_only(examples: Iterable[Any]) -> bool:
    values = examples.values() if isinstance(examples, dict) else examples
    return all(isinstance(value, Tensor) for value in values)


def unwrapped(net: nn.Module) -> nn.Module:
    """The module itself, out of what `torch.compile` and data parallelism put around it.

    Raises:
        InputError: a TorchScript module, of which the operations can no longer be told.
    """
    if isinstance(net, torch.jit.ScriptModule):
        raise InputError("a TorchScript module cannot be imported; give the nn.Module that it was made of")
    if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(net.module)
    original = net._modules.get("_orig_mod")
    return net if original is None else unwrapped(original)


def export(net: nn.Module, example: Tensor) -> ExportedProgram:
    """The program of a module in evaluation mode, which it is left in as it was.

    Raises:
        WeightsError: a weight that is not a finite number.
        InputError: an example that the module does not take.
        GraphError: the module cannot be exported: control flow that depends on the input, or unknown operations.
    """
    check_weights(net)
    with evaluating(net):
        attempt(net, example)
        try:
            with quiet():
                program = torch.export.export(net, (example.clone(),))
                return decomposed(program)
        except Exception as error:  # the exporter raises errors of many modules
            raise GraphError(f"{type(net).__name__} cannot be exported: {_reason(error)}") from None


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The same in operations that are known here, or refused by name; all others fall apart."""
    table: Any = torch.export.default_decompositions()
    for name in (*OPERATIONS, *ADVICE):
        packet = getattr(torch.ops.aten, name, None)
        for overload in packet.overloads() if packet is not None else ():
            table.pop(getattr(packet, overload), None)
    result: ExportedProgram = program.run_decompositions(table)
    return result


def check_weights(net: nn.Module) -> None:
    """Raises WeightsError for parameters and buffers that are not finite numbers."""
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise WeightsError(f"tensor {name!r} has no values yet; run the network on an example first")
        if tensor.is_meta:
            raise WeightsError(f"tensor {name!r} has no values; load the weights first")
        if tensor.dtype.is_complex or (tensor.dtype.is_floating_point and not bool(tensor.isfinite().all())):
            raise WeightsError(f"tensor {name!r} holds NaN, infinite or complex values; train the network again")


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; each part is then as it was."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
    except NotImplementedError:  # an exported program has its mode for good
        modes = []
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings, logs and printed graphs: what it means is in its errors."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def attempt(net: nn.Module, example: Tensor) -> Any:
    """Runs the module once: what is wrong with the example is told before the exporter tells it in its own words.

    Raises:
        InputError: the module does not take the example.
    """
    try:
        with quiet():
            return net(example.clone())
    except FheinferError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise InputError(
            f"{type(net).__name__} does not take an example of the shape {tuple(example.shape)}: {one_line(error)}"
        ) from None


def _reason(error: Exception) -> str:
    text = str(error)
    place = re.search(r'File "([^"]*)", line (\d+)', "\n".join(re.findall(r"(?m)^.*File .*line \d+.*$", text)[-1:]))
    where = f" ({place[1].rpartition('/')[2]} line {place[2]})" if place else ""
    if re.search(r"data-dependent|Could not guard|control flow|Eq\(u\d|\bcond\b|GuardOnDataDependent", text):
        return f"its control flow depends on the input{where}; decide outside the network, or by arithmetic"
    return f"{one_line(error)}{where}"
