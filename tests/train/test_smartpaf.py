"""SmartPAF's ways of training: which activations, parameters and scales each of them touches, and when."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fheinfer.data import datasets as data
from fheinfer.errors import UsageError
from fheinfer.frontends import zoo
from fheinfer.model.model import Model, load
from fheinfer.train import smartpaf
from fheinfer.train.calibrate import measure_ranges
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.evaluate import accuracy, measure
from fheinfer.train.finetune import finetune
from fheinfer.train.loop import checkpoint_path, train
from fheinfer.train.module import from_model
from fheinfer.train.observer import TrainingObserver, TrainingProgress, unobserved
from fheinfer.train.paf import PAF
from fheinfer.train.recipe import Recipe
from fheinfer.train.replace import replaced
from fheinfer.train.run import Run
from tests.train.conftest import QUICK

TUNE = replace(QUICK, epochs=4, peak_lr=0.01)


@pytest.fixture(scope="module")
def start(relu_model: Model, mosaics: Path) -> Model:
    return replaced(relu_model, "f1", measure_ranges(relu_model, data.load(mosaics, "train"), margin=1.2))


@pytest.fixture
def few(mosaics: Path) -> data.DataSet:
    return data.load(mosaics, "train").resized(8).take(np.arange(400))


def run_of(recipe: Recipe, start: Model, few: data.DataSet, observe: TrainingObserver = unobserved) -> Run:
    return Run(Checkpoint(start.name, recipe), start.graph, few, few.take(np.arange(100)), observe, start=start)


def test_progressive_replaces_in_inference_order_by_half_of_the_run(start: Model, few: data.DataSet) -> None:
    orders: list[list[bool]] = []

    def observe(progress: TrainingProgress) -> None:
        if progress.held_out is None and not progress.measuring:
            states = [[bool(p.waiting) for p in m.pafs().values()] for m in (run.module, run.average)]
            assert states[0] == states[1]
            orders.append(states[0])

    run = run_of(replace(TUNE, progressive=True), start, few, observe)
    assert list(run.module.pafs()) == [node.name for node in start.graph.activations]
    for _ in range(4):
        run.epoch()
    active = [len(o) - sum(o) for o in orders]
    assert len(active) == 32
    assert active[:16] == [-(-7 * step // 16) for step in range(1, 17)]
    assert active[16:] == [7] * 16
    assert all(o == sorted(o) for o in orders)
    assert run.state.best_epoch > 1
    assert not any("waiting" in name for name in run.state.model)


def test_a_paf_that_waits_is_a_relu_and_gives_no_gradient_to_its_coefficients(start: Model) -> None:
    module = from_model(start)
    smartpaf.replace_first(module, 0.5)
    layers = list(module.pafs().values())
    x = torch.linspace(-1, 1, 20)
    for layer in (layers[0], layers[-1]):
        assert torch.equal(layer(x), x.relu()) == (layer is layers[-1])
    layers[-1](x).sum().backward()
    gradient = layers[-1].coefficients.grad
    assert gradient is not None
    assert not gradient.any()


def test_alternate_changes_coefficients_or_the_rest(start: Model, few: data.DataSet) -> None:
    run = run_of(replace(TUNE, alternate=True), start, few)
    coefficients = {f"{name}.coefficients" for name in run.module.pafs()}
    for epoch in range(4):
        before = {name: p.detach().clone() for name, p in run.module.named_parameters()}
        run.epoch()
        changed = {name for name, p in run.module.named_parameters() if not torch.equal(p, before[name])}
        assert changed == (set(before) - coefficients if epoch % 2 else coefficients)


def test_a_dynamic_scale_follows_the_batch() -> None:
    fixed, follows = PAF((3,)), PAF((3,))
    for layer in (fixed, follows):
        torch.nn.init.constant_(layer.coefficients, 0.7)
    follows.dynamic = True
    x = torch.tensor([-3.0, 0.5, 2.0], requires_grad=True)
    fixed.scale.fill_(3.0)
    assert torch.equal(follows(x), fixed(x))
    assert torch.equal(follows(2 * x), 2 * follows(x))
    assert follows(torch.zeros(2)).isfinite().all()
    assert "dynamic" not in follows.state_dict()


def test_a_dynamic_scale_ends_static_and_covers_the_training_images(start: Model, few: data.DataSet) -> None:
    recipe = replace(TUNE, dynamic=True, settle=2)
    wrong = {name: a * (3 if name.endswith("scale") else 1) for name, a in start.tensors.items()}
    run = run_of(recipe, dataclasses.replace(start, tensors=wrong), few)
    scales = []
    for epoch in range(4):
        run.epoch()
        assert all(paf.dynamic == (epoch < 2) for m in (run.module, run.average) for paf in m.pafs().values())
        scales.append([float(paf.scale) for paf in run.module.pafs().values()])
        assert scales[-1] == [float(paf.scale) for paf in run.average.pafs().values()]
    assert scales[0] == scales[1] == pytest.approx([float(v[0]) for n, v in wrong.items() if n.endswith("scale")])
    assert scales[2] == scales[3]
    assert run.state.best_epoch > 2
    module = from_model(start)
    module.load_state_dict(run.state.best)
    for (name, paf), scale in zip(module.pafs().items(), scales[3], strict=True):
        assert float(paf.scale) == scale
        inside = measure(module, few, start.mean, start.std)[1][name][0]
        assert scale / 2 < inside < scale


def test_a_scale_cannot_be_settled_on_what_is_no_number(start: Model) -> None:
    module = from_model(start)
    sizes = dict.fromkeys(module.pafs(), (1.0, 1.0))
    with pytest.raises(UsageError, match=r"the input of 'layer1\.0\.relu1' is not a number"):
        smartpaf.settle_scales(module, [sizes, {**sizes, "layer1.0.relu1": (float("inf"), 1.0)}])


def test_swa_is_the_equal_average_over_the_last_epochs(start: Model, few: data.DataSet) -> None:
    seen: list[torch.Tensor] = []

    def observe(progress: TrainingProgress) -> None:
        if progress.held_out is None and not progress.measuring and progress.epoch >= 2:
            seen.append(run.module.get_parameter("conv1.weight").detach().clone())

    run = run_of(replace(TUNE, swa=2), start, few, observe)
    for _ in range(4):
        run.epoch()
    assert len(seen) == 16
    assert torch.allclose(run.average.get_parameter("conv1.weight"), torch.stack(seen).mean(0), atol=1e-6)


EVERYTHING = replace(TUNE, progressive=True, alternate=True, dynamic=True, settle=1, swa=2, bits=5, prune=0.3)


def test_a_resumed_run_with_everything_ends_like_an_unbroken_one(
    relu_model: Model, mosaics: Path, tmp_path: Path
) -> None:
    def stop_in(epoch: int) -> TrainingObserver:
        def observe(progress: TrainingProgress) -> None:
            if progress.epoch == epoch and progress.step == 7:
                raise KeyboardInterrupt

        return observe

    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    finetune(relu_model, "f1", whole, mosaics, EVERYTHING)
    for epoch in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            finetune(relu_model, "f1", broken, mosaics, EVERYTHING, resume=True, observer=stop_in(epoch))
    finetune(relu_model, "f1", broken, mosaics, EVERYTHING, resume=True)
    model = load(whole)
    assert load(broken).identity == model.identity
    test = data.load(mosaics, "test").resized(8)
    assert accuracy(from_model(model), test, model.mean, model.std) > 0.5


def test_a_checkpoint_from_before_these_settings_goes_on(mosaics: Path, tmp_path: Path) -> None:
    old, out = replace(QUICK, epochs=1), tmp_path / "tiny.safetensors"
    Checkpoint("resnet8-tiny", old).save(checkpoint_path(out))
    content = torch.load(checkpoint_path(out), weights_only=True)
    for name in ("swa", "bits", "prune", "progressive", "alternate", "dynamic"):
        del content["recipe"][name]
    torch.save(content, checkpoint_path(out))
    assert Checkpoint.load(checkpoint_path(out), zoo.network("resnet8-tiny"), old).recipe == old


@pytest.mark.parametrize("setting", ["progressive", "alternate", "dynamic"])
def test_what_is_for_pafs_is_refused_without(setting: str, mosaics: Path, tmp_path: Path) -> None:
    recipe = replace(QUICK, settle=1).changed([f"{setting}=1"])
    assert getattr(recipe, setting) is True
    with pytest.raises(UsageError, match=f"{setting} is for PAFs"):
        train("resnet8-tiny", tmp_path / "x.safetensors", mosaics, recipe)


@pytest.mark.parametrize("bad", [{"dynamic": True}, {"swa": 5, "epochs": 4}, {"swa": -1}])
def test_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="settle" if "dynamic" in bad else "swa"):
        Recipe(**bad)


@pytest.mark.slow
def test_fused_does_the_same_up_to_rounding(start: Model, few: data.DataSet) -> None:
    recipe = replace(EVERYTHING, prune=0.0)
    states = []
    for fused in (False, True):
        run = Run(
            Checkpoint(start.name, recipe),
            start.graph,
            few,
            few.take(np.arange(100)),
            unobserved,
            None,
            fused,
            start,
        )
        for _ in range(4):
            run.epoch()
        states.append(run.state.model)
    plain, compiled = states
    begun = from_model(start).state_dict()
    for kind in ("coefficients", "weight", "scale"):
        names = [name for name in begun if name.endswith(kind)]
        moved, apart = (
            torch.cat([(plain[n] - other[n]).flatten() for n in names]).norm() for other in (begun, compiled)
        )
        assert apart < 0.2 * moved, kind
