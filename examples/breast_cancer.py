"""A network of one's own on a table: trained here, compiled, and asked about patients that the server never sees.

The data is scikit-learn's (569 tumours, 30 measurements each), which comes with it. Everything runs in one process;
between machines the client would send `request` and get `result` back, and the server would have the plan and the
folder `server` of the keys.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

import fheinfer as fi

TRAINED = 455
"""Tumours to train with; the others are to test with."""
PATIENTS = 10
"""How many are classified encrypted."""


@dataclass(frozen=True)
class Data:
    """x: (569, 30), normalised by the mean and standard deviation of those to train with; labels: (569,)."""

    x: torch.Tensor
    labels: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


def load() -> Data:
    found = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(found.data))
    rows, labels = found.data[order], torch.from_numpy(found.target[order])
    mean, std = rows[:TRAINED].mean(0), rows[:TRAINED].std(0)
    x = torch.from_numpy((rows - mean) / std).float()
    return Data(x, labels, tuple(mean), tuple(std), tuple(map(str, found.target_names)))


class Net(nn.Module):
    """30-64-64-2 with squares, moved to be close to a ReLU: two levels instead of eight, so a small ring will do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(30, 64), nn.Linear(64, 64), nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (0.5 * self.fc1(x) + 0.5) ** 2
        x = (0.5 * self.fc2(x) + 0.5) ** 2
        return self.fc3(x)


def train(x: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1.0)
    for _ in range(20):
        for pick in torch.randperm(len(x)).split(35):
            loss = nn.functional.cross_entropy(net(x[pick]), labels[pick], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def main() -> None:
    data = load()
    x, labels = data.x, data.labels
    net = train(x[:TRAINED], labels[:TRAINED])
    right = (net(x[TRAINED:]).argmax(1) == labels[TRAINED:]).float().mean()
    print(f"trained on {TRAINED} tumours; {100 * right:.1f} % of {len(x) - TRAINED} others right in clear")

    model = fi.from_torch(net, torch.zeros(1, 30), mean=data.mean, std=data.std, classes=data.classes)
    model = model.calibrate(x[:TRAINED])
    plan = fi.compile(model)
    print(plan)

    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder)
        fi.keygen(plan.client, keys)
        client = fi.Client(keys, plan.client)
        session = fi.Server().session(plan, keys / "server")
        for patient in range(TRAINED, TRAINED + PATIENTS):
            request = client.encrypt(x[patient].double().numpy())
            began = time.perf_counter()
            result = session.evaluate(request)
            seconds = time.perf_counter() - began
            logits = client.decrypt(result, request=request)
            clear = net(x[patient]).detach().numpy()
            found, truth = (data.classes[i] for i in (fi.top_class(logits), labels[patient]))
            print(
                f"patient {patient}: {found:9} (really {truth:9})  {seconds:.2f} s, "
                f"largest difference from PyTorch {np.abs(logits - clear).max():.4f}"
            )


if __name__ == "__main__":
    main()
