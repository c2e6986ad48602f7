from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from fheinfer.cli.training import training_view
from fheinfer.data import datasets as data
from fheinfer.errors import CorruptArtifactError, MismatchError, StorageError, UsageError
from fheinfer.frontends import zoo
from fheinfer.frontends.importing import import_model
from fheinfer.model.model import load
from fheinfer.model.ops import Relu
from fheinfer.train import augment as images
from fheinfer.train import run as run_module
from fheinfer.train.calibrate import calibrate
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.evaluate import accuracy, measure, noisy_accuracy, recalibrate
from fheinfer.train.loop import checkpoint_path, train
from fheinfer.train.module import GraphModule, from_model
from fheinfer.train.observer import TrainingObserver, TrainingProgress, unobserved
from fheinfer.train.recipe import Recipe
from fheinfer.train.run import Run, Teacher

NETWORK = "resnet8-tiny"
WEIGHTS = Path(__file__).parents[2] / "weights"
QUICK = Recipe(epochs=3, batch=50, peak_lr=0.2, average=0.9, crop=2, bfloat16=False, seed=5)  # as in conftest.py


@pytest.fixture
def trained(relu_file: Path) -> Path:
    return relu_file


def stop_in_epoch(epoch: int) -> TrainingObserver:
    def observe(progress: TrainingProgress) -> None:
        if progress.epoch == epoch and progress.step == 7:
            raise KeyboardInterrupt

    return observe


def test_it_learns_and_the_file_does_what_the_card_says(trained: Path, mosaics: Path) -> None:
    model = load(trained)
    test = data.load(mosaics, "test").resized(8)
    score = accuracy(from_model(model), test, model.mean, model.std)
    assert score > 0.8
    card = trained.with_suffix(".md").read_text()
    assert f"| accuracy on 1,000 test images | {100 * score:.2f} % |" in card
    assert model.identity in card
    assert not checkpoint_path(trained).exists()


def test_the_ranges_are_those_of_the_training_images(trained: Path, mosaics: Path) -> None:
    model = load(trained)
    fitting = data.split(data.load(mosaics, "train"))[0].resized(8)
    _, found = measure(from_model(model), fitting, model.mean, model.std)
    measured = {name: inside for name, (inside, _) in found.items()}
    assert model.ranges == pytest.approx(measured, rel=1e-5)
    assert list(measured) == [node.name for node in model.graph if isinstance(node.op, Relu)]
    assert min(measured.values()) > 0
    assert model.kept_bits


def test_an_imported_model_is_calibrated_on_data(trained: Path, mosaics: Path) -> None:
    model = import_model(trained).model
    again = calibrate(replace(model, ranges={}), mosaics)
    assert again.identity == load(trained).identity
    assert set(again.ranges) == set(load(trained).ranges)
    assert min(again.ranges.values()) > 0


def test_a_resumed_run_ends_like_an_unbroken_one(trained: Path, mosaics: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(NETWORK, out, mosaics, QUICK, observer=stop_in_epoch(1))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.checkpoint"]
    heard: list[TrainingProgress] = []
    train(NETWORK, out, mosaics, QUICK, resume=True, observer=heard.append)
    assert {progress.epoch for progress in heard if not progress.measuring} == {1, 2}
    assert {progress.measuring for progress in heard} >= {"held-out images", "statistics", "test images"}
    assert all(0 < progress.step <= progress.steps for progress in heard)
    assert load(out).identity == load(trained).identity
    curve = load(out).provenance["curve"]
    assert curve == load(trained).provenance["curve"]
    points = [point.split() for point in curve.split("; ")]
    assert [epoch for epoch, *_ in points] == ["1", "2", "3"]
    assert [right for *_, right in points[1:]] == [f"{100 * p.held_out:.2f}" for p in heard if p.held_out is not None]
    card = out.with_suffix(".md").read_text()
    for epoch, loss, right in points:
        assert f"| {epoch} | {loss} | {right} % |" in card


def test_the_curve_of_a_checkpoint_that_had_none_begins_where_it_goes_on(
    trained: Path, mosaics: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tiny.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(NETWORK, out, mosaics, QUICK, observer=stop_in_epoch(2))
    content = torch.load(checkpoint_path(out), weights_only=True)
    del content["curve"]
    torch.save(content, checkpoint_path(out))
    train(NETWORK, out, mosaics, QUICK, resume=True)
    assert load(out).provenance["curve"] == load(trained).provenance["curve"].split("; ")[2]


def test_what_runs_away_is_infinite(mosaics: Path) -> None:
    model = load(WEIGHTS / "resnet20-turbo.safetensors")
    large = {name: a * np.float32(1e30 if name == "herpn1.weight" else 1) for name, a in model.tensors.items()}
    few = data.load(mosaics, "test").take(np.arange(7))
    right, sizes = measure(from_model(replace(model, tensors=large)), few, model.mean, model.std)
    assert right == 0
    assert 1e29 < sizes["herpn1"][1] < math.inf
    assert sizes["layer3.2.herpn"][1] == math.inf


def test_a_teacher_is_its_own_best_pupil_whatever_it_normalises_by(trained: Path) -> None:
    model = load(trained)
    student = from_model(model)
    images = torch.rand(20, 3, 8, 8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.mean, model.std))
    other = replace(QUICK, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    for recipe in (QUICK, other):
        teacher = Teacher(model, recipe, torch.device("cpu"))
        shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (recipe.mean, recipe.std))
        with torch.no_grad():
            logits = student((images - mean) / std)
        assert float(teacher.loss(logits, (images - shift) / scale)) == pytest.approx(0, abs=1e-5)
        assert float(teacher.loss(logits.roll(1, 1), (images - shift) / scale)) > 0.1


def test_a_pupil_learns_from_its_teacher_and_names_it(trained: Path, mosaics: Path, tmp_path: Path) -> None:
    out = tmp_path / "pupil.safetensors"
    teacher = load(trained)
    train(NETWORK, out, mosaics, replace(QUICK, distill=1.0), teacher=teacher)  # labels do not count at all
    pupil = load(out)
    test = data.load(mosaics, "test").resized(8)
    assert accuracy(from_model(pupil), test, pupil.mean, pupil.std) > 0.8
    assert f"| recipe: teacher | {teacher.identity} |" in out.with_suffix(".md").read_text()


def test_a_run_begins_with_what_another_network_has_under_the_same_names(trained: Path, mosaics: Path) -> None:
    first = load(trained)
    fitting, held_out = data.split(data.load(mosaics, "train").resized(8))
    state = Checkpoint("resnet8-tiny-herpn", Recipe(epochs=1))
    run = Run(state, zoo.network(state.network), fitting, held_out, unobserved, start=first)
    begun = run.module.state_dict()
    for name in begun.keys() & first.tensors.keys():
        assert np.array_equal(begun[name].cpu().numpy(), first.tensors[name])
    assert "layer1.0.conv1.weight" in begun.keys() & first.tensors.keys()
    with pytest.raises(UsageError, match="no weights of the names and shapes"):
        Run(
            Checkpoint("checkerboard", Recipe(epochs=1)),
            zoo.network("checkerboard"),
            fitting,
            held_out,
            unobserved,
            start=first,
        )


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    mosaics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = images.batches

    def poisoned(*args: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for x, labels in real(*args):
            yield x * (np.nan if args[2] == 1 else 1), labels

    monkeypatch.setattr(run_module, "batches", poisoned)
    out = tmp_path / "tiny.safetensors"
    with pytest.raises(UsageError, match=r"epoch 2.*lower learning rate"):
        train(NETWORK, out, mosaics, QUICK)
    kept = Checkpoint.load(checkpoint_path(out), zoo.network(NETWORK), QUICK)
    assert kept.epoch == 1
    assert all(bool(tensor.isfinite().all()) for tensor in kept.model.values())
    assert not out.exists()


def test_a_checkpoint_of_something_else_is_not_resumed(mosaics: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    Checkpoint(NETWORK, replace(QUICK, seed=6)).save(checkpoint_path(out))
    with pytest.raises(MismatchError, match="another"):
        train(NETWORK, out, mosaics, QUICK, resume=True)
    whole = checkpoint_path(out).read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        checkpoint_path(out).write_bytes(content)
        with pytest.raises(CorruptArtifactError, match="start again") as caught:
            train(NETWORK, out, mosaics, QUICK, resume=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error, raised", [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "full"), StorageError)]
)
def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    path = tmp_path / "a.checkpoint"
    Checkpoint(NETWORK, QUICK).save(path)
    before = path.read_bytes()

    def breaks(fd: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", breaks)
    with pytest.raises(raised):
        Checkpoint(NETWORK, QUICK, epoch=1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_and_a_card_replace_links_and_follow_none(tmp_path: Path) -> None:
    """Whoever can write in the folder could otherwise have another file overwritten, by a name that can be told."""
    victim, path = tmp_path / "victim", tmp_path / "out" / "a.checkpoint"
    victim.write_text("keep")
    path.parent.mkdir()
    for name in ("a.checkpoint", f".a.checkpoint.{os.getpid()}"):
        (path.parent / name).symlink_to(victim)
    Checkpoint(NETWORK, QUICK).save(path)
    assert victim.read_text() == "keep"
    assert not path.is_symlink()
    assert Checkpoint.load(path, zoo.network(NETWORK), QUICK).epoch == 0


def test_a_checkpoint_of_another_graph_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "a.checkpoint", zoo.network("resnet8-tiny-silu")
    state = GraphModule(zoo.network(NETWORK)).state_dict()
    Checkpoint(NETWORK, QUICK, model={**state, "fc.bias": torch.zeros(11)}).save(path)
    with pytest.raises(MismatchError, match="another network"):
        Checkpoint.load(path, zoo.network(NETWORK), QUICK)
    Checkpoint(NETWORK, QUICK, model=state).save(path)
    assert Checkpoint.load(path, zoo.network(NETWORK), QUICK).model.keys() == state.keys()
    with pytest.raises(MismatchError, match="another network"):
        Checkpoint.load(path, other, QUICK)


def test_the_learning_rate_climbs_then_falls_to_nothing() -> None:
    recipe = Recipe(peak_lr=0.3, warmup=0.25)
    rates = [recipe.lr(step, 100) for step in range(100)]
    top = int(np.argmax(rates))
    assert 20 <= top <= 30
    assert max(rates) == pytest.approx(0.3, rel=0.05)
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"peak_lr": 0.0},
        {"peak_lr": np.inf},
        {"batch": 1},
        {"warmup": 1.0},
        {"std": (1, 0, 1)},
        {"seed": -1},
    ],
)
def test_a_recipe_that_cannot_work_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Recipe(**bad)


def test_the_bar_prints_a_line_an_epoch() -> None:
    console = Console(record=True, width=100, force_terminal=False)
    with training_view(console) as observe:
        observe(TrainingProgress(0, 2, 500, 1000, float("nan"), measuring="ranges"))
        observe(TrainingProgress(0, 2, 1, 2, 2.3))
        observe(TrainingProgress(0, 2, 2, 2, 2.2, held_out=0.25))
    assert "epoch   1/2  loss 2.200  held out 25.00 %" in console.export_text()


@pytest.mark.parametrize("network", ["resnet8-tiny-herpn", "resnet8-tiny-turbo"])
def test_a_quadratic_network_learns_and_stays_small(network: str, trained: Path, mosaics: Path, tmp_path: Path) -> None:
    out = tmp_path / "quadratic.safetensors"
    recipe = replace(QUICK, epochs=4, settle=1, bound=3.0)
    with pytest.raises(KeyboardInterrupt):
        train(network, out, mosaics, recipe, observer=stop_in_epoch(3), teacher=load(trained))
    train(network, out, mosaics, recipe, resume=True, teacher=load(trained))
    model = load(out)
    module, given = from_model(model), (model.mean, model.std)
    test = data.load(mosaics, "test").resized(8)
    score = accuracy(module, test, *given)
    assert score > 0.8
    measured, sizes = measure(module, test, *given)
    assert measured == score
    assert max(max(pair) for pair in sizes.values()) < 64
    assert accuracy(module, test, *given, most=64) == score
    assert accuracy(module, test, *given, most=0.01) == 0
    assert noisy_accuracy(module, test, *given, sizes) > score - 0.02
    assert noisy_accuracy(module, test, *given, sizes, noise=100.0) < 0.4
    card = out.with_suffix(".md").read_text()
    assert "| largest value into or out of an activation, all images |" in card
    assert "noise of 2^-8" in card
    assert "| recipe: settle | 1 |" in card


def test_settled_statistics_are_measured_once_and_then_do_not_move(mosaics: Path) -> None:
    fitting, held_out = (part.resized(8) for part in data.split(data.load(mosaics, "train")))
    state = Checkpoint("resnet8-tiny-turbo", replace(QUICK, epochs=2, settle=1))
    run = Run(state, zoo.network(state.network), fitting, held_out, unobserved)
    run.epoch()
    measured = GraphModule(zoo.network("resnet8-tiny-turbo"))
    measured.load_state_dict(state.model)
    recalibrate(measured, fitting, QUICK)
    run.epoch()
    for name, tensor in measured.state_dict().items():
        kept = torch.allclose(tensor, state.model[name], atol=1e-5)
        assert kept == name.endswith(("mean", "var")), name


def test_an_image_beyond_all_bounds_neither_stops_training_nor_goes_unpunished(mosaics: Path) -> None:
    """With settled statistics its values square from layer to layer; it is punished where that begins, and no
    gradient of the layers behind drowns what the other images have to say."""
    fitting, held_out = data.split(data.load(mosaics, "train").resized(8))
    state = Checkpoint("resnet8-tiny-turbo", Recipe(epochs=1, settle=1, bfloat16=False))
    run = Run(state, zoo.network(state.network), fitting, held_out, unobserved)
    run.module.eval()
    good = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    both = torch.cat([good, torch.full((2, 3, 8, 8), 1e4)])
    assert float(run.module.forward_all(both)["layer3.0.herpn"].detach().abs().max()) > 1e30
    logits, outside = run._forward(both)
    assert torch.allclose(logits[:2], run.module(good), rtol=1e-4)
    assert 1e3 < float(outside.detach()) < np.inf
    outside.backward()  # type: ignore[no-untyped-call]
    first, behind = (run.module.get_parameter(f"{name}.weight").grad for name in ("conv1", "layer3.0.conv"))
    assert isinstance(first, torch.Tensor)
    assert 0 < float(first.abs().max()) < 1e4
    assert behind is None or float(behind.abs().max()) < 1e4


def test_noise_is_a_part_of_the_largest_value_and_new_in_every_step(mosaics: Path) -> None:
    """As `evaluate.noisy_accuracy` adds it; the last batch of an epoch may be smaller."""
    fitting, held_out = data.split(data.load(mosaics, "train").resized(8))
    noisy, turbo = Recipe(noise=0.01, bfloat16=False), zoo.network("resnet8-tiny-turbo")
    run = Run(Checkpoint("resnet8-tiny-turbo", noisy), turbo, fitting, held_out, unobserved)
    value = torch.randn(100, 4, 8, 8).to(memory_format=torch.channels_last)
    added = []
    for name in ("herpn1", "layer1.0.herpn", "herpn1"):
        run.noise.normal_()
        added.append(run._disturbed(name, value) - value)
        assert float(added[-1].std() / (0.01 * value.abs().max())) == pytest.approx(1, abs=0.02)
    assert abs(float(torch.corrcoef(torch.stack([a.flatten() for a in added]))[0, 2])) < 0.03
    assert not torch.equal(run._disturbed("bn1", value[:3]), value[:3])
    assert torch.equal(run._disturbed("avgpool", value), value)
    still = Run(Checkpoint("resnet8-tiny-turbo", Recipe()), turbo, fitting, held_out, unobserved)
    assert torch.equal(still._disturbed("herpn1", value), value)


@pytest.mark.parametrize(
    "setting",
    [
        "epochs",
        "epochs=1.5",
        "epochs=many",
        "pace=3",
        "lr=",
        "flip=2",
        "mean=1",
        "epochs=0",
        "penalty=-1",
        "settle=99",
        "std=(0.1, 0.0, 0.1)",
        "epochs=__import__",
    ],
)
def test_a_bad_recipe_is_a_usage_error(setting: str) -> None:
    with pytest.raises(UsageError, match="recipe"):
        Recipe().changed([setting])


def test_fewer_epochs_than_are_to_settle_settle_all() -> None:
    usual = Recipe(epochs=5, settle=2)
    assert usual.changed(["epochs=1"]).settle == 1
    assert usual.changed(["epochs=9"]).settle == usual.changed([]).settle == 2
    with pytest.raises(UsageError, match="settle cannot be 3"):
        usual.changed(["epochs=2", "settle=3"])


def test_a_recipe_is_read_from_settings() -> None:
    assert Recipe().changed(["epochs=3", "penalty=2", "flip=False", "mean=(0.1, 0.2, 0.3)", "peak_lr=1e-2"]) == Recipe(
        epochs=3, penalty=2.0, flip=False, mean=(0.1, 0.2, 0.3), peak_lr=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet20+f1", "resnet20-turbo"])
def test_fused_measurements_are_the_same_up_to_rounding(network: str, mosaics: Path) -> None:
    """The last batch is smaller."""
    model = load(WEIGHTS / f"{network}.safetensors")
    images, recipe = data.load(mosaics, "test").take(np.arange(257)), Recipe(mean=model.mean, std=model.std)
    found = []
    for fused in (False, True):
        module = from_model(model)
        recalibrate(module, images, recipe, fused=fused)
        found.append((module.state_dict(), measure(module, images, model.mean, model.std, fused=fused)))
    (plain, (right, sizes)), (state, (again, seen)) = found
    assert again == pytest.approx(right, abs=1 / 257)
    for name, pair in sizes.items():
        assert seen[name] == pytest.approx(pair, rel=1e-3), name
    for name, tensor in plain.items():
        assert torch.allclose(tensor, state[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.slow
def test_a_fused_run_computes_the_same_up_to_rounding(trained: Path, mosaics: Path) -> None:
    fitting, held_out = (part.resized(8) for part in data.split(data.load(mosaics, "train")))
    runs = [
        Run(
            Checkpoint("resnet8-tiny-turbo", QUICK),
            zoo.network("resnet8-tiny-turbo"),
            fitting,
            held_out,
            unobserved,
            load(trained),
            fused,
        )
        for fused in (False, True)
    ]
    x, labels = next(images.batches(fitting, QUICK, 0, torch.device("cpu")))
    losses = [[run._step(x, labels, step, 10) for step in range(3)] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for name, tensor in runs[0].module.state_dict().items():
        assert torch.allclose(tensor, runs[1].module.state_dict()[name], atol=1e-3), name
