"""Linear layers learn a checkerboard: points of a 100 x 100 grid, moved a little, and their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import fheinfer
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.frontends import zoo
from fheinfer.model.model import Model
from fheinfer.train.module import GraphModule
from tests.conftest import TINY


def points() -> tuple[Tensor, Tensor]:
    """(10,000, 2) in [-1, 1]^2, and their colours: moved to [0, 1]^2, the parity of round(3 x) + round(3 y)."""
    random = np.random.default_rng(42)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 100), np.linspace(0, 1, 100)), -1).reshape(-1, 2)
    moved = random.permutation(grid + random.normal(0, 0.01, grid.shape))
    colours = np.rint(3 * moved).astype(int).sum(1) % 2
    return torch.from_numpy(moved).float() * 2 - 1, torch.from_numpy(colours)


@pytest.fixture(scope="module")
def trained() -> GraphModule:
    x, colours = points()
    torch.manual_seed(1)
    module = GraphModule(zoo.network("checkerboard"))
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    random = torch.Generator().manual_seed(1)
    for epoch in range(20):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - epoch / 20)
        module.train()
        for pick in torch.split(torch.randperm(9_500, generator=random), 95):
            loss = functional.cross_entropy(module(x[pick]), colours[pick])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return module.eval()


def test_it_learns_the_checkerboard(trained: GraphModule) -> None:
    x, colours = points()
    with torch.inference_mode():
        right = (trained(x[9_500:]).argmax(1) == colours[9_500:]).float().mean()
    assert right >= 0.95


def test_and_runs_it_encrypted(trained: GraphModule, tmp_path: Path) -> None:
    x, colours = points()
    with torch.inference_mode():
        values = trained.forward_all(x[:9_500])
    ranges = {node.name: float(values[node.inputs[0]].abs().max()) for node in trained.graph.activations}
    tensors = {name: tensor.numpy() for name, tensor in trained.state_dict().items()}
    model = Model(trained.graph, tensors, (0.5, 0.5), (0.5, 0.5), ranges=ranges)
    plan = fheinfer.compile(model, TINY)
    fheinfer.keygen(plan.client, tmp_path)
    session = fheinfer.Server().session(plan, tmp_path / "server")
    client = fheinfer.Client(tmp_path, plan.client)
    right = 0
    for point, colour in zip(x[9_500:9_520].double().numpy(), colours[9_500:9_520].tolist(), strict=True):
        logits = client.decrypt(session.evaluate(client.encrypt(point)))
        assert precision_bits(fheinfer.run_slots(plan, point), logits).minimum > 8
        right += int(logits.argmax()) == colour
    assert right >= 19
