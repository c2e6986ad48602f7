"""Every operation of the table: it imports and computes what PyTorch computes, encrypted too, or is refused by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.keygen import add_keys
from fheinfer.errors import GraphError, PlanError
from fheinfer.evaluation.plain import plain_layers
from fheinfer.frontends.torch_export import from_torch
from fheinfer.model.model import Model
from tests.frontends import torch_table
from tests.frontends.torch_cases import CASES, Case

FINALS = {"softmax": Tensor.softmax, "log_softmax": Tensor.log_softmax, "sigmoid": lambda y, _: y.sigmoid()}


def outputs(model: Model, x: Tensor) -> list[Tensor]:
    values = plain_layers(model, x[0].double().numpy())
    found = [torch.from_numpy(values[name]) for name in model.graph.outputs]
    return [FINALS[model.final](y, 0) for y in found] if model.final else found


def module(case: Case) -> nn.Module:
    torch.manual_seed(1)
    net = case.make().eval()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.rand_like(buffer))
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return net


@cache
def imported(case: Case) -> tuple[nn.Module, Model]:
    net = module(case)
    return net, from_torch(net, torch.randn(1, *case.shape), quiet=True)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_operation_computes_what_pytorch_computes_or_is_refused(case: Case) -> None:
    if case.refused:
        with pytest.raises(GraphError) as caught:
            imported(case)
        assert case.refused in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    (net, model), x = imported(case), torch.randn(1, *case.shape)
    with torch.no_grad():
        expected = net(x.clone())
    (y,) = outputs(model, x)
    assert y.numel() == expected.numel()
    torch.testing.assert_close(y.reshape(expected.shape).float(), expected, rtol=1e-4, atol=1e-5)


def once_by_default() -> list[object]:
    """The cases that are not refused; all but the first of an operation are slow."""
    taken = [case for case in CASES if not case.refused]
    first = {torch_table.base(case): case for case in reversed(taken)}.values()
    return [pytest.param(case, id=case.name, marks=[] if case in first else [pytest.mark.slow]) for case in taken]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where folders of keys are made by parameter set, and grow by what each plan needs."""
    return tmp_path_factory.mktemp("keys")


@pytest.mark.parametrize("case", once_by_default())
def test_an_operation_computes_it_encrypted(case: Case, keys: Path) -> None:
    net, model = imported(case)
    torch.manual_seed(2)  # not the numbers of the module
    xs = torch.randn(16, *case.shape)
    plan = compiled(model.calibrate(xs))
    folder, x = keys / plan.params.name, xs[0].double().numpy()
    if folder.exists():
        add_keys(plan.client, folder)
    else:
        fheinfer.keygen(plan.client, folder, policy="minimal")
    client = fheinfer.Client(folder, plan.client)
    found = client.decrypt(fheinfer.Server().session(plan, folder / "server").evaluate(client.encrypt(x)))
    with torch.no_grad():
        expected = net(xs[:1].clone()).double().numpy()
    error = np.abs(found.ravel() - expected.ravel()).max() / np.abs(expected).max()
    assert error < (2**-7 if plan.kept == np.inf else 2**-4)


def compiled(model: Model) -> Plan:
    """A plan for a small ring: the levels of the first do for all but comparisons."""
    try:
        return fheinfer.compile(model, "insecure-tiny-turbo", bits=5)
    except PlanError:
        return fheinfer.compile(model, "insecure-tiny", bits=5)


def test_the_table_of_the_docs_says_what_is_tested_here() -> None:
    page = torch_table.PAGE.read_text()
    assert torch_table.written(page) == page, "write it with `python -m tests.frontends.torch_table`"
    missing = torch_table.HEIR - {torch_table.base(case).replace("_", "") for case in CASES}
    assert not missing
