"""PAF nodes, their tuning and their training, against formulas written out and against the untrained PAFs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fheinfer.approx import activation
from fheinfer.approx.tuning import OUTSIDE, evaluated, initial, tuned
from fheinfer.data import datasets as data
from fheinfer.errors import MismatchError, UsageError
from fheinfer.evaluation.inputs import inputs_of
from fheinfer.evaluation.ranges import Ranges
from fheinfer.frontends import zoo
from fheinfer.model.model import Model, load
from fheinfer.model.ops import Paf, Relu
from fheinfer.model.verify import verify
from fheinfer.progress import silent
from fheinfer.train.calibrate import measure_ranges
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.evaluate import accuracy, measure, recalibrate
from fheinfer.train.finetune import RECIPE, finetune
from fheinfer.train.module import INSIDE, GraphModule, from_model
from fheinfer.train.paf import PAF
from fheinfer.train.recipe import Recipe
from fheinfer.train.replace import replaced
from fheinfer.train.report import write_report

NAMES = ("2f12g1", "a7", "f2g3", "f2g2", "f1g2", "f1", "f2")
X = np.linspace(-0.99, 0.99, 400)


@pytest.fixture(scope="module")
def ranges(relu_model: Model, mosaics: Path) -> Ranges:
    return measure_ranges(relu_model, data.load(mosaics, "train"), margin=1.2)


def layer(name: str, scale: float) -> PAF:
    coefficients = initial(*name.split(":"))
    made = PAF([2 * len(stage) - 1 for stage in coefficients]).double()
    with torch.no_grad():
        made.coefficients.copy_(torch.from_numpy(np.concatenate(coefficients)))
        made.scale.fill_(scale)
    return made


@pytest.mark.parametrize("name", [*NAMES, "f1g2:f-first", "2f12g1:f-first"])
def test_the_layer_is_the_registrys_activation_at_its_scale(name: str) -> None:
    y = layer(name, 3.0)(torch.from_numpy(3 * X)).detach().numpy()
    assert y == pytest.approx(3 * activation(name).evaluate(X), rel=1e-9, abs=1e-12)


def test_the_formula() -> None:
    made = PAF((3, 5)).double()
    c = np.array([1.5, -0.5, 2.0, -1.0, 0.25])
    with torch.no_grad():
        made.coefficients.copy_(torch.from_numpy(c))
        made.scale.fill_(2.0)
    x = X * 2
    z = c[0] * (x / 2) + c[1] * (x / 2) ** 3
    s = c[2] * z + c[3] * z**3 + c[4] * z**5
    assert made(torch.from_numpy(x)).detach().numpy() == pytest.approx((x + x * s) / 2, rel=1e-9)
    assert evaluated([c[:2], c[2:]], X)[0] == pytest.approx(s, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_differences(name: str) -> None:
    start = initial(name)
    flat, lengths = np.concatenate(start), np.cumsum([len(s) for s in start])[:-1]
    columns = evaluated(start, X)[1]
    for i in range(len(flat)):
        step = np.zeros(len(flat))
        step[i] = 1e-6
        up, down = (evaluated(np.split(flat + sign * step, lengths), X)[0] for sign in (1, -1))
        assert columns[:, i] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_tuning_helps_where_the_inputs_are_and_holds_everywhere(name: str) -> None:
    weights = np.exp(-0.5 * (X / 0.08) ** 2)

    def missed(coefficients: list[np.ndarray]) -> float:
        error = np.abs(X) * (np.sign(X) - evaluated(coefficients, X)[0]) / 2
        return float(np.sqrt(np.average(error**2, weights=weights)))

    found = tuned(initial(name), X, weights)
    assert missed(found) < 0.8 * missed(initial(name))
    edge = np.linspace(-OUTSIDE, OUTSIDE, 1000)
    worst = np.abs(edge) * np.abs(np.sign(edge) - evaluated(found, edge)[0]) / 2
    assert worst.max() < 0.9  # of the range; where nothing falls, tuning without a floor reaches many times that


def test_the_floor_is_what_holds_the_edges() -> None:
    weights = np.exp(-0.5 * (X / 0.05) ** 2)
    edges = [
        abs(float(evaluated(tuned(initial("f1g2"), X, weights, floor), np.ones(1))[0][0]) - 1)
        for floor in (0.0, 0.001, 0.1)
    ]
    assert edges[0] > 5 * edges[1] > 5 * edges[2]


def test_a_single_cubic_is_tuned_to_the_least_squares_there_are() -> None:
    """s is linear in the coefficients of one polynomial: NumPy's least squares must give the same."""
    weights = np.exp(-np.abs(X))
    found = tuned(initial("f1"), X, weights, floor=0.0)[0]
    factor = np.sqrt(weights) * np.abs(X)
    expected = np.linalg.lstsq(factor[:, None] * np.stack([X, X**3], 1), factor * np.sign(X), rcond=None)[0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_network_with_pafs_is_named_and_legal() -> None:
    graph = verify(zoo.network("resnet20+2f12g1"))
    nodes = [node for node in graph if isinstance(node.op, Paf)]
    assert [n.name for n in nodes] == [n.name for n in zoo.network("resnet20") if isinstance(n.op, Relu)]
    assert nodes[0].op == Paf((3, 3, 3, 3), "relu1.coefficients", "relu1.scale")
    assert zoo.network("resnet20+f1g2:f-first")["relu1"].op == Paf((3, 5), "relu1.coefficients", "relu1.scale")
    for wrong in ("f9", "", "f1:f-first", "f1g2:g-first", "relu:27"):
        with pytest.raises(UsageError, match="no PAF"):
            zoo.network(f"resnet20+{wrong}")


def test_replacing_keeps_the_weights_and_most_of_the_answers(
    relu_model: Model, ranges: Ranges, mosaics: Path, tmp_path: Path
) -> None:
    made = replaced(relu_model, "2f12g1", ranges)
    assert made.tensors["relu1.scale"][0] == pytest.approx(1.2 * ranges.activations["relu1"].largest)
    assert np.array_equal(made.tensors["conv1.weight"], relu_model.tensors["conv1.weight"])
    test = data.load(mosaics, "test").resized(8)
    exact, score = (accuracy(from_model(w), test, w.mean, w.std) for w in (relu_model, made))
    assert score > exact - 0.02
    made.save(tmp_path / "paf.safetensors")
    again = load(tmp_path / "paf.safetensors")
    assert again.identity == made.identity
    assert again.graph.nodes == made.graph.nodes


def test_what_cannot_be_replaced(relu_model: Model, ranges: Ranges) -> None:
    other = Model(relu_model.graph, {k: v * 2 for k, v in relu_model.tensors.items()}, relu_model.mean, relu_model.std)
    with pytest.raises(MismatchError, match="fheinfer calibrate"):
        replaced(other, "f1", ranges)
    with pytest.raises(UsageError, match="no PAF 'nonsense'"):
        replaced(relu_model, "nonsense", ranges)
    made = replaced(relu_model, "f1", ranges)
    theirs = Ranges(made.name, made.identity, 1, 1.2, ranges.activations)
    with pytest.raises(UsageError, match="no ReLU to replace"):
        replaced(made, "f1", theirs)


def test_finetuning_wins_back_what_replacing_lost(
    relu_model: Model, ranges: Ranges, mosaics: Path, tmp_path: Path
) -> None:
    test = data.load(mosaics, "test").resized(8)
    before = replaced(relu_model, "f1", ranges)
    out = tmp_path / "f1.safetensors"
    finetune(relu_model, "f1", out, mosaics, RECIPE.changed(["epochs=2", "batch=50", "crop=2", "bfloat16=False"]))
    after = load(out)
    assert after.name == "resnet8-tiny+f1"
    scores = [accuracy(from_model(w), test, w.mean, w.std) for w in (relu_model, before, after)]
    assert scores[2] > max(scores[1], scores[0] - 0.02)
    fitting = data.split(data.load(mosaics, "train"))[0].resized(8)
    for name, (inside, _) in measure(from_model(after), fitting, after.mean, after.std)[1].items():
        assert inside < after.tensors[f"{name}.scale"][0]
    assert f"| recipe: teacher | {relu_model.identity} |" in out.with_suffix(".md").read_text()


def test_inputs_are_kept_in_a_part_of_the_scale(relu_model: Model, ranges: Ranges) -> None:
    made = replaced(relu_model, "f1", ranges)
    bounds = from_model(made).bounds(4.0)
    assert float(bounds["relu1"][0]) == pytest.approx(INSIDE * made.tensors["relu1.scale"][0])
    assert GraphModule(zoo.network("resnet8-tiny-turbo")).bounds(4.0)["herpn1"] == (4.0, 8.0)
    assert from_model(relu_model).bounds(4.0) == {}


def test_a_image_that_runs_away_leaves_training_and_statistics_numbers(
    relu_model: Model, ranges: Ranges, mosaics: Path
) -> None:
    """Powers of powers reach infinity beyond the range, and a batch norm would spread that over all images."""
    made = replaced(relu_model, "2f12g1", ranges)
    narrow = replace(made, tensors={**made.tensors, "relu1.scale": np.array([1e-3], np.float32)})
    images, recipe = data.load(mosaics, "test").resized(8), Recipe(mean=made.mean, std=made.std)
    given = (recipe.mean, recipe.std)
    for weights, survives in ((made, True), (narrow, False)):
        module = from_model(weights)
        x, _ = next(inputs_of(images, *given, torch.device("cpu")))
        assert bool(module(x).isfinite().all()) == survives  # deployed, it is what it is
        assert (accuracy(module, images, *given, most=64) > 0.5) == survives
        sizes = measure(module, images, *given)[1]
        assert (max(max(pair) for pair in sizes.values()) < math.inf) == survives
        recalibrate(module, images, recipe)
        assert all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())
    paf = from_model(made).train().pafs()["relu1"]
    value = (torch.tensor([3.0, 300.0, 1.0]) * paf.scale).requires_grad_()
    paf(value).sum().backward()
    assert isinstance(value.grad, torch.Tensor)
    assert value.grad.isfinite().all()


def test_a_run_that_ends_with_runaways_still_leaves_its_weights(
    relu_model: Model, ranges: Ranges, mosaics: Path, tmp_path: Path
) -> None:
    """Ranges that are no numbers once lost a finished run."""
    made = replaced(relu_model, "2f12g1", ranges)
    narrow = replace(made, tensors={**made.tensors, "relu1.scale": np.array([1e-3], np.float32)})
    images = data.load(mosaics, "test").resized(8)
    state = Checkpoint(
        made.name,
        Recipe(epochs=1, settle=1),
        1,
        best=from_model(narrow).state_dict(),
        best_epoch=1,
        curve=[(0.5, 0.25)],
    )
    out = tmp_path / "narrow.safetensors"
    write_report(state, made.graph, images, images, images, out, lambda what: silent)
    assert load(out).identity == replace(narrow, mean=state.recipe.mean, std=state.recipe.std).identity
    card = out.with_suffix(".md").read_text()
    assert "all images | inf |" in card
    assert "| layer1.0.relu1 | 3.4e+38 |" in card
    assert "| 1 | 0.5000 | 25.00 % |" in card
    assert "curve |" not in card


def test_finetune_refuses_an_unknown_paf(relu_model: Model, mosaics: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no PAF"):
        finetune(relu_model, "g9", tmp_path / "x.safetensors", mosaics, Recipe(epochs=1))
    assert not list(tmp_path.iterdir())
