"""Weights as people save them come in under the network's names, and what was guessed is said."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fheinfer.errors import WeightsError
from fheinfer.frontends import zoo
from fheinfer.frontends.checkpoints import Checkpoint, Matched, match, read_checkpoint
from fheinfer.frontends.spellings import SHORTCUTS, WRAPPERS

EXPECTED = zoo.network("resnet8-tiny").tensor_shapes()
Arrays = dict[str, NDArray[np.float32]]


def arrays(seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in EXPECTED.items()}


def same(found: Any, expected: Arrays) -> bool:
    return list(found) == list(expected) and all(np.array_equal(found[name], expected[name]) for name in expected)


def renamed(named: Arrays, change: Callable[[str], str]) -> Arrays:
    return {change(name): array for name, array in named.items()}


def state_dict(named: Arrays) -> Any:
    torch = pytest.importorskip("torch")
    counters = {f"{name[:-11]}num_batches_tracked": torch.tensor(3) for name in named if name.endswith("running_var")}
    return OrderedDict({name: torch.from_numpy(array.copy()) for name, array in named.items()} | counters)


def saved(path: Path, content: Any, **options: Any) -> Path:
    pytest.importorskip("torch").save(content, path, **options)
    return path


ZERO: Arrays = {name: np.zeros(shape, np.float32) for name, shape in EXPECTED.items()}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (lambda sd: sd, ""),
        (lambda sd: {"net": sd, "acc": 92.7, "epoch": 199}, "net"),
        (lambda sd: {"model": sd}, "model"),
        (lambda sd: {"model_state_dict": sd, "loss": sd["fc.bias"].sum(), "history": [1.0]}, "model_state_dict"),
        (
            lambda sd: {"state_dict": sd, "optimizer": {"state": {0: {"m": sd["fc.bias"]}}, "param_groups": []}},
            "state_dict",
        ),
        (lambda sd: {"optim": {"w": sd["fc.bias"]}, "my_net": sd, "arch": "resnet"}, "my_net"),
        (lambda sd: {"state": {"model": sd}, "args": {"lr": 0.1}}, "state.model"),
        (lambda sd: {"model_ema": sd}, "model_ema"),
        (lambda sd: {"ema": {"module": sd}}, "ema.module"),
    ],
    ids=["plain", "net", "model", "model_state_dict", "state_dict", "other", "nested", "ema", "nested-ema"],
)
@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("name", ["w.pt", "model_best.pth.tar", "w.npz", "weights"])
def test_a_state_dict_is_found_wherever_it_is(
    tmp_path: Path, content: Any, where: str, new_format: bool, name: str
) -> None:
    path = saved(tmp_path / name, content(state_dict(arrays())), _use_new_zipfile_serialization=new_format)
    found = read_checkpoint(path)
    assert same(match(found, EXPECTED).arrays, arrays())
    assert all(array.dtype == np.float32 for array in found.arrays.values())
    assert [note for note in found.notes if "under" in note] == ([f"the weights are under {where!r}"] if where else [])
    assert any("counters (num_batches_tracked) are ignored" in note for note in found.notes)


def test_the_plain_one_is_taken_beside_an_average_and_it_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", {"state_dict_ema": state_dict(arrays(1)), "state_dict": state_dict(arrays(2))})
    found = read_checkpoint(path)
    assert same(match(found, EXPECTED).arrays, arrays(2))
    assert "of several state_dicts 'state_dict' is taken, not state_dict_ema" in found.notes
    assert same(match(read_checkpoint(path, entry="state_dict_ema"), EXPECTED).arrays, arrays(1))
    with pytest.raises(WeightsError, match=r"no one state_dict 'net'; there are state_dict_ema, state_dict"):
        read_checkpoint(path, entry="net")


def test_of_two_networks_none_is_guessed(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", {"actor": state_dict(arrays(1)), "critic": state_dict(arrays(2))})
    with pytest.raises(WeightsError, match=r"w\.pt: holds several state_dicts: actor, critic; say which"):
        read_checkpoint(path)
    assert same(match(read_checkpoint(path, entry="critic"), EXPECTED).arrays, arrays(2))


wrapped = st.lists(st.sampled_from([*sorted(WRAPPERS), "model", "net", "backbone", "a1"]), max_size=4)


@given(wrapped, st.sampled_from(SHORTCUTS), st.sampled_from(["fc", "linear", "classifier", "head", "classifier.3"]))
def test_prefixes_and_spellings_come_off_in_any_combination(prefix: list[str], shortcut: str, last: str) -> None:
    start = "".join(f"{part}." for part in prefix)

    def change(name: str) -> str:
        name = name.replace(".downsample.", f".{shortcut}.")
        return f"{start}{last}{name[2:]}" if name.startswith("fc.") else f"{start}{name}"

    found = match(renamed(arrays(), change), EXPECTED)
    assert same(found.arrays, arrays())
    assert (f"names start with '{start}'; ignored" in found.notes) == bool(prefix)
    assert any(repr(shortcut) in note for note in found.notes) == (shortcut != "downsample")
    assert any("last layer" in note for note in found.notes) == (last != "fc")
    assert len(found.notes) == bool(prefix) + (shortcut != "downsample") + (last != "fc")


@given(st.sampled_from(sorted(WRAPPERS)), st.sampled_from(["layer1", "layer2.0.", "conv1"]))
def test_wrappers_in_the_middle_of_names_are_left_off(wrapper: str, at: str) -> None:
    inner = at.rstrip(".")
    found = match(renamed(arrays(), lambda name: name.replace(f"{inner}.", f"{inner}.{wrapper}.", 1)), EXPECTED)
    assert same(found.arrays, arrays())
    assert wrapper in "".join(found.notes)


def test_a_common_prefix_that_the_network_has_stays() -> None:
    expected = {f"model.{name}": shape for name, shape in EXPECTED.items()}
    named = renamed(arrays(), lambda name: f"module.model.{name}")
    found = match(named, expected)
    assert list(found.arrays) == list(expected)
    assert found.notes == ("names start with 'module.'; ignored",)
    one_layer = {"fc.weight": (3, 2), "fc.bias": (3,)}
    alone = {"linear.weight": np.ones((3, 2), np.float32), "linear.bias": np.ones(3, np.float32)}
    assert list(match(alone, one_layer).arrays) == list(one_layer)


def test_the_only_network_in_a_file_of_several_parts_is_taken() -> None:
    named = renamed(arrays(), lambda name: f"model.{name}") | {"criterion.weight": np.ones(10, np.float32)}
    found = match(named, EXPECTED)
    assert same(found.arrays, arrays())
    assert "only names that begin with 'model.' are taken, 1 others ignored" in found.notes
    both = renamed(arrays(1), lambda name: f"online.{name}") | renamed(arrays(2), lambda name: f"average.{name}")
    with pytest.raises(WeightsError, match=r"several networks, under 'online\.', 'average\.'"):
        match(both, EXPECTED)
    assert same(match(both, EXPECTED, prefix="average").arrays, arrays(2))
    with pytest.raises(WeightsError, match="begins with 'other'"):
        match(both, EXPECTED, prefix="other")


def without_shortcuts(named: Arrays) -> Arrays:
    return {name: array for name, array in named.items() if ".downsample." not in name}


def test_option_a_is_said_demanded_or_refused() -> None:
    bare = without_shortcuts(arrays())
    for allowed in (None, True):
        found = match(bare, EXPECTED, option_a=allowed)
        assert any("option A" in note for note in found.notes)
        matrix = found.arrays["layer2.0.downsample.0.weight"][:, :, 0, 0]
        assert np.array_equal(matrix, np.pad(np.eye(4), ((2, 2), (0, 0))))
        assert found.arrays["layer2.0.downsample.1.running_var"] == pytest.approx(1 - 1e-5, abs=1e-8)
        assert list(found.arrays) == list(EXPECTED)
    with pytest.raises(WeightsError, match=r"layer2\.0\.downsample\.0\.weight' is missing, as are all"):
        match(bare, EXPECTED, option_a=False)
    with pytest.raises(WeightsError, match="but the file has some"):
        match(arrays(), EXPECTED, option_a=True)


def test_a_part_of_the_shortcuts_missing_is_no_option_a() -> None:
    named = {name: array for name, array in arrays().items() if not name.startswith("layer3.0.downsample")}
    with pytest.raises(WeightsError, match=r"layer3\.0\.downsample\.0\.weight' is missing \(one of 5 missing\)"):
        match(named, EXPECTED)


def test_option_a_of_impossible_shapes_is_refused() -> None:
    expected = {"conv.weight": (4, 4, 3, 3), "downsample.0.weight": (4, 8, 1, 1)}
    with pytest.raises(WeightsError, match="cannot be an option A"):
        match({"conv.weight": np.ones((4, 4, 3, 3), np.float32)}, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conv1.weight": None}, r"'conv1.weight' is missing; is the file of this network\?"),
        ({"extra.weight": np.ones(3, np.float32)}, "'extra.weight' is unknown"),
        ({"fc.weight": np.ones((100, 16), np.float32)}, r"'fc.weight' has shape \(100, 16\), expected \(10, 16\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_what_does_not_match_is_named(changes: dict[str, Any], words: str) -> None:
    named: dict[str, Any] = arrays() | changes
    with pytest.raises(WeightsError, match=words):
        match({name: array for name, array in named.items() if array is not None}, EXPECTED)


def test_tensors_that_are_there_twice_and_1x1_convolutions_for_linear_layers_are_said() -> None:
    named = arrays() | {"classes.bias": arrays()["fc.bias"]}
    named["fc.weight"] = named["fc.weight"].reshape(10, 16, 1, 1)
    found = match(named, EXPECTED)
    assert same(found.arrays, arrays())
    assert any("under other names: classes.bias" in note for note in found.notes)
    assert any("(10, 16, 1, 1)" in note for note in found.notes)


def test_an_untrained_layer_is_not_taken_for_another_one() -> None:
    named = arrays() | {"layer1.0.bn1.bias": np.zeros(4, np.float32), "extra.bias": np.zeros(4, np.float32)}
    with pytest.raises(WeightsError, match=r"'extra\.bias' is unknown"):
        match(named, EXPECTED)


def test_a_transposed_shape_is_not_read_as_another() -> None:
    with pytest.raises(WeightsError, match=r"has shape \(1, 6, 5, 5\), expected \(6, 1, 5, 5\)"):
        match({"conv.weight": np.ones((1, 6, 5, 5), np.float32)}, {"conv.weight": (6, 1, 5, 5)})


def test_two_names_that_become_one_are_refused() -> None:
    named = arrays() | {"layer1.module.0.conv1.weight": arrays(1)["layer1.0.conv1.weight"]}
    with pytest.raises(WeightsError, match=r"two tensors are called 'layer1\.0\.conv1\.weight'"):
        match(named, EXPECTED)


@given(st.integers(1, 1000), wrapped, st.sampled_from(["fc", "linear", "classifier", "head", "classifier.6"]))
def test_classes_are_what_the_last_layer_says(classes: int, prefix: list[str], last: str) -> None:
    start = "".join(f"{part}." for part in prefix)
    named: Arrays = {f"{start}conv.weight": np.ones((5, 3, 3, 3), np.float32)}
    named |= {f"{start}{last}.weight": np.ones((classes, 16), np.float32)}
    if last == "classifier.6":
        named[f"{start}classifier.3.weight"] = np.ones((77, 16), np.float32)
    assert Checkpoint(named).classes() == classes


def test_a_network_of_100_classes_is_imported(tmp_path: Path) -> None:
    graph = zoo.resnet("hundred", (1, 1, 1), (4, 8, 16), size=8, classes=100)
    named = {name: np.ones(shape, np.float32) for name, shape in graph.tensor_shapes().items()}
    found = read_checkpoint(saved(tmp_path / "w.pt", {"net": state_dict(named)}))
    assert found.classes() == 100
    assert match(found, graph.tensor_shapes()).arrays["fc.bias"].shape == (100,)


def test_classes_that_cannot_be_told_are_asked_for() -> None:
    with pytest.raises(WeightsError, match=r"no fc\.weight or the like"):
        Checkpoint({"conv.weight": np.ones((4, 3, 3, 3), np.float32)}).classes()
    two = {"head.weight": np.ones((4, 3), np.float32), "linear.weight": np.ones((5, 3), np.float32)}
    with pytest.raises(WeightsError, match=r"head\.weight with 4, linear\.weight with 5"):
        Checkpoint(two).classes()
    assert Checkpoint(two).classes("linear") == 5


# Files


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_width_of_real_numbers_is_read(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {name: t.to(getattr(torch, dtype)) for name, t in state_dict(arrays()).items() if t.is_floating_point()}
    expected = {name: t.float().numpy() for name, t in tensors.items()}
    save_file({**tensors, "epoch": torch.tensor([3])}, tmp_path / "a", {"made": "here"})
    saved(tmp_path / "b", tensors)
    for name in ("a", "b"):
        found = read_checkpoint(tmp_path / name)
        assert same(match(found, EXPECTED).arrays, expected)
    safe = read_checkpoint(tmp_path / "a")
    assert safe.metadata == {"made": "here"}
    assert "ignored, as no weights: epoch (I64)" in safe.notes
    if dtype != "bfloat16":
        np.savez(tmp_path / "c.npz", **{name: t.numpy() for name, t in tensors.items()})
        assert same(match(read_checkpoint(tmp_path / "c.npz"), EXPECTED).arrays, expected)


def test_numpy_archives_are_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    plain: dict[str, Any] = {**arrays()}
    np.savez_compressed(tmp_path / "w.npz", **plain, epoch=3, names=np.array(["a"]))
    save_file(plain, tmp_path / "w.safetensors")
    for name, new_format in (("zip.pt", True), ("old.pt", False)):
        saved(tmp_path / name, state_dict(arrays()), _use_new_zipfile_serialization=new_format)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    for name in ("w.npz", "w.safetensors"):
        assert same(match(read_checkpoint(tmp_path / name), EXPECTED).arrays, arrays())
    assert "ignored, as no weights: epoch (int64), names (<U1)" in read_checkpoint(tmp_path / "w.npz").notes
    for name in ("zip", "old"):
        with pytest.raises(WeightsError, match=rf"{name}\.pt: a file of torch\.save; reading it needs torch: pip inst"):
            read_checkpoint(tmp_path / f"{name}.pt")


def public(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        pytest.skip(f"no {name} there")
    return path


@pytest.mark.parametrize(
    ("name", "network", "notes"),
    [
        ("weights/chenyaofo_cifar10_resnet20-4118986f.pt", "resnet20", 1),
        ("weights/akamaster_resnet20-12fca82f.th", "resnet20", 4),
        ("weights/snu_fhe_mp_cnn_resnet20_new.npz", "resnet20", 1),
        ("models/akamaster_resnet32-d509ac18.th", "resnet32", 4),
        ("models/akamaster_resnet44-014dd654.th", "resnet44", 4),
    ],
)
def test_checkpoints_of_other_projects_are_imported(public_data: Path, name: str, network: str, notes: int) -> None:
    found = read_checkpoint(public(public_data, name))
    assert found.classes() == 10
    made = match(found, zoo.network(network).tensor_shapes())
    assert any("option A" in note for note in made.notes) == ("chenyaofo" not in name)
    assert len(made.notes) == notes, made.notes


def test_a_state_dict_with_every_tensor_under_two_names_is_imported(public_data: Path) -> None:
    found = read_checkpoint(public(public_data, "models/heir_lenet_state.pt"))
    assert found.classes() == 10
    expected = {name: array.shape for name, array in found.arrays.items() if not name.startswith(("conv", "linear"))}
    made = match(found, expected)
    assert list(made.arrays) == list(expected)
    assert any("under other names: conv1.weight" in note for note in made.notes)


def test_results_cannot_be_reassigned() -> None:
    for made in (Checkpoint({}), Matched({}, ())):
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.arrays = {}  # type: ignore[misc]
