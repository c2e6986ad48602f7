"""Every operation of the table: it imports and computes what PyTorch computes, or is refused by its name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fheinfer.errors import GraphError
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


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_operation_computes_what_pytorch_computes_or_is_refused(case: Case) -> None:
    net, x = module(case), torch.randn(1, *case.shape)
    if case.refused:
        with pytest.raises(GraphError) as caught:
            from_torch(net, x)
        assert case.refused in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    model = from_torch(net, x)
    with torch.no_grad():
        expected = net(x.clone())
    (y,) = outputs(model, x)
    assert y.numel() == expected.numel()
    torch.testing.assert_close(y.reshape(expected.shape).float(), expected, rtol=1e-4, atol=1e-5)


def test_the_table_of_the_docs_says_what_is_tested_here() -> None:
    page = torch_table.PAGE.read_text()
    assert torch_table.written(page) == page, "write it with `python -m tests.frontends.torch_table`"
    missing = torch_table.HEIR - {torch_table.base(case).replace("_", "") for case in CASES}
    assert not missing
