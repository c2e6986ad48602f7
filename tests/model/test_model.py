from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fheinfer.errors import StorageError, UnknownNetworkError, WeightsError
from fheinfer.frontends import zoo
from fheinfer.model import model as module
from fheinfer.model.model import Weights, import_file, load, shapes

GRAPH = zoo.network("resnet8-tiny")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
RELUS = [node.name for node in GRAPH if node.op == "relu"]
fuzz = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: np.abs(random.normal(0.5, 0.2, shape)).astype(np.float32) for name, shape in shapes(GRAPH).items()}


def made(**changes: object) -> Weights:
    ranges = {name: 1.5 + i for i, name in enumerate(RELUS)}
    return Weights(**{"graph": GRAPH, "arrays": arrays(), "mean": MEAN, "std": STD, "ranges": ranges,
                      "provenance": {"by": "a test"}, **changes})  # type: ignore[arg-type]


def without_shortcuts(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in named.items() if ".downsample." not in name}


def test_shapes_are_those_of_the_graph() -> None:
    expected = shapes(GRAPH)
    assert expected["conv1.weight"] == (4, 3, 3, 3)
    assert expected["layer2.0.downsample.0.weight"] == (8, 4, 1, 1)
    assert expected["layer2.0.downsample.1.running_var"] == (8,)
    assert expected["fc.weight"] == (10, 16)
    assert expected["fc.bias"] == (10,)


def test_a_saved_file_comes_back_whole(tmp_path: Path) -> None:
    weights = made()
    weights.save(tmp_path / "new" / "w.safetensors")
    again = load(tmp_path / "new" / "w.safetensors")
    assert all(np.array_equal(again.arrays[name], array) for name, array in weights.arrays.items())
    assert (again.network, again.mean, again.std) == (weights.network, MEAN, STD)
    assert (again.ranges, again.provenance, again.identity) == (weights.ranges, weights.provenance, weights.identity)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w.safetensors"]


def test_the_identity_covers_names_values_and_normalisation() -> None:
    weights = made()
    assert made(provenance={}, ranges={}).identity == weights.identity
    assert made(mean=(0.5, 0.4, 0.31)).identity != weights.identity
    assert made(arrays=arrays() | {"fc.bias": np.zeros(10, np.float32)}).identity != weights.identity


def test_arrays_cannot_be_changed() -> None:
    source = arrays()
    weights = made(arrays=source)
    source["fc.bias"][0] = 99
    assert weights.arrays["fc.bias"][0] != 99
    with pytest.raises(ValueError, match="read-only"):
        weights.arrays["fc.bias"][0] = 1


@pytest.mark.parametrize("name, value, words", [
    ("fc.bias", None, "missing"),
    ("fc.extra", np.zeros(3, np.float32), "unknown"),
    ("fc.bias", np.zeros(11, np.float32), "expected"),
    ("fc.bias", np.zeros(10, np.int64), "int64"),
    ("fc.bias", np.full(10, np.nan, np.float32), "NaN"),
    ("fc.bias", np.full(10, 1e300), "infinite"),
    ("bn1.running_var", np.full(4, -1, np.float32), "negative variance"),
])
def test_a_bad_tensor_is_named(name: str, value: np.ndarray | None, words: str) -> None:
    changed = arrays() | {name: value}
    with pytest.raises(WeightsError, match=words) as caught:
        made(arrays={k: v for k, v in changed.items() if v is not None})
    assert name in str(caught.value)


@pytest.mark.parametrize("changes", [{"mean": (1, 2)}, {"std": (1, 0, 1)}, {"std": (1, np.nan, 1)},
                                     {"ranges": {"relu1": 1.0}}, {"ranges": dict.fromkeys(RELUS, np.inf)}])
def test_bad_facts_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WeightsError):
        made(**changes)


@fuzz
@given(st.data())
def test_a_damaged_file_is_refused_or_means_the_same(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "w.safetensors"
    weights = made()
    weights.save(path)
    content = bytearray(path.read_bytes())
    in_header = st.integers(0, 6000) | st.integers(0, len(content) - 1)
    if data.draw(st.booleans()):
        del content[data.draw(in_header):]
    else:
        content[data.draw(in_header)] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        again = load(path)
    except WeightsError as error:
        assert "\n" not in str(error)
    else:
        assert (again.identity, again.ranges, again.provenance) == (
            weights.identity, weights.ranges, weights.provenance)


@fuzz
@given(st.sampled_from([".safetensors", ".npz", ".pt", ".th"]), st.binary(max_size=200))
def test_random_bytes_never_crash(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        import_file(path, "resnet8-tiny")


def test_what_is_not_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(WeightsError):
            load(path)
    made().save(tmp_path / "w.safetensors")
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(WeightsError, match="at most"):
        load(tmp_path / "w.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    made().save(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError):
        load(tmp_path / "w.safetensors", zoo.network("resnet20"))
    with pytest.raises(WeightsError, match="resnet8-tiny"):
        load(tmp_path / "w.safetensors", replace(GRAPH, name="another"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    made().save(path)
    before = path.read_bytes()

    def fails(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(StorageError, match="No space"):
        made(provenance={}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_npz_in_float64_without_shortcuts_is_imported(tmp_path: Path) -> None:
    wide: dict[str, Any] = {k: v.astype(np.float64) for k, v in without_shortcuts(arrays()).items()}
    np.savez(tmp_path / "w.npz", **wide)
    weights = import_file(tmp_path / "w.npz", "resnet8-tiny", std=(1, 1, 1))
    matrix = weights.arrays["layer2.0.downsample.0.weight"][:, :, 0, 0]
    assert np.array_equal(matrix, np.pad(np.eye(4), ((2, 2), (0, 0))))
    assert weights.mean == (0.4914, 0.4822, 0.4465)
    assert weights.std == (1, 1, 1)


def test_safetensors_of_others_are_imported_but_not_loaded(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(arrays(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="import"):
        load(tmp_path / "w.safetensors")
    weights = import_file(tmp_path / "w.safetensors", "resnet8-tiny")
    assert np.array_equal(weights.arrays["conv1.weight"], arrays()["conv1.weight"])


def test_import_refuses_what_is_not_weights(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    (tmp_path / "w.onnx").touch()
    for name in ("objects.npz", "w.onnx", "gone.pt"):
        with pytest.raises(WeightsError):
            import_file(tmp_path / name)
    with pytest.raises(UnknownNetworkError):
        import_file(tmp_path / "w.npz", "resnet9000")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(1_000_000))
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    with pytest.raises(WeightsError, match="unpacks"):
        import_file(tmp_path / "w.npz")


def test_arrays_in_another_order_are_saved_as_they_are_read(tiny_weights: Weights, tmp_path: Path) -> None:
    arrays = {name: np.asfortranarray(array) for name, array in tiny_weights.arrays.items()}
    again = Weights(tiny_weights.graph, arrays, tiny_weights.mean, tiny_weights.std, tiny_weights.ranges)
    again.save(tmp_path / "w.safetensors")
    assert load(tmp_path / "w.safetensors").identity == again.identity == tiny_weights.identity
