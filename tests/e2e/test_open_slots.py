"""What stands in slots beside the elements of a value does not reach polynomials, where it would ruin the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fheinfer


class Sliced(nn.Module):
    """An activation of two channels of four, the others a thousand times as large."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.act, self.fc = nn.Conv2d(2, 4, 1, bias=False), nn.SiLU(), nn.Linear(64, 3)
        with torch.no_grad():
            self.conv.weight[:2] *= 1000

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc(torch.cat([x[:, :2], self.act(x[:, 2:])], 1).flatten(1))  # type: ignore[no-any-return]


class Pooled(nn.Module):
    """An activation of averages over all pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.silu(self.conv(x).mean((2, 3))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("made", [Sliced, Pooled])
def test_an_activation_of_a_part_of_a_value_is_right_when_encrypted(made: type[nn.Module], tmp_path: Path) -> None:
    module, x = made().eval(), torch.rand(20, 2, 4, 4)
    model = fheinfer.from_torch(module, x[:1]).calibrate(x.numpy())
    plan = fheinfer.compile(model, "insecure-tiny-turbo")
    fheinfer.keygen(plan.client, tmp_path / "keys")
    client = fheinfer.Client(tmp_path / "keys", plan.client)
    session = fheinfer.Server().session(plan, tmp_path / "keys" / "server")
    found = client.decrypt(session.evaluate(client.encrypt(x[0].numpy())))
    with torch.inference_mode():
        expected = module(x[:1])[0].numpy()
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
