"""The model file: round trip, bytes, and everything that a file can be instead."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

import fheinfer
from fheinfer.errors import FheinferError, GraphError, PlanError, StorageError, WeightsError
from fheinfer.frontends import zoo
from fheinfer.model import model as module
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model, graph_from_json, graph_to_json, load
from fheinfer.model.ops import Input, Linear, Product, Relu
from fheinfer.tensor_file import tensor_bytes, tensor_metadata

GRAPH = zoo.network("resnet8-tiny")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
RELUS = [node.name for node in GRAPH if isinstance(node.op, Relu)]
fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = GRAPH.tensor_shapes().items()
    return {name: np.abs(random.normal(0.5, 0.2, shape)).astype(np.float32) for name, shape in shapes}


def made(**changes: object) -> Model:
    fields: dict[str, Any] = {
        "graph": GRAPH,
        "tensors": tensors(),
        "mean": MEAN,
        "std": STD,
        "classes": tuple("abcdefghij"),
        "ranges": {name: 1.5 + i for i, name in enumerate(RELUS)},
        "provenance": {"by": "a test", "when": "now"},
    }
    return Model(**fields | changes)


def same(one: Model, other: Model) -> bool:
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("name", "mean", "std", "classes", "ranges", "provenance", "identity")
    )


def test_shapes_are_those_of_the_graph() -> None:
    expected = GRAPH.tensor_shapes()
    assert expected["conv1.weight"] == (4, 3, 3, 3)
    assert expected["layer2.0.downsample.0.weight"] == (8, 4, 1, 1)
    assert expected["layer2.0.downsample.1.running_var"] == (8,)
    assert expected["fc.weight"] == (10, 16)
    assert expected["fc.bias"] == (10,)


def test_a_saved_file_comes_back_whole(tmp_path: Path) -> None:
    model = made()
    model.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert all(np.array_equal(again.tensors[name], array) for name, array in model.tensors.items())
    assert same(again, model)
    assert again.graph.nodes == model.graph.nodes
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("name", [*zoo.names(), "resnet20+f1g2"])
def test_every_network_of_the_zoo_fits_a_file(name: str) -> None:
    graph = zoo.network(name)
    again = graph_from_json(json.loads(json.dumps(graph_to_json(graph))))
    assert (again.name, again.nodes) == (graph.name, graph.nodes)


def test_the_same_model_has_the_same_bytes() -> None:
    model = made()
    backwards = made(
        tensors=dict(reversed(list(model.tensors.items()))),
        ranges=dict(reversed(list(model.ranges.items()))),
        provenance=dict(reversed(list(model.provenance.items()))),
    )
    assert model.to_bytes() == backwards.to_bytes()
    by_columns = {name: np.asfortranarray(array) for name, array in model.tensors.items()}
    assert made(tensors=by_columns).to_bytes() == model.to_bytes()


def test_the_identity_covers_graph_values_and_normalisation() -> None:
    model = made()
    assert made(provenance={}, ranges={}, classes=()).identity == model.identity
    assert made(mean=(0.5, 0.4, 0.31)).identity != model.identity
    assert made(tensors=tensors() | {"fc.bias": np.zeros(10, np.float32)}).identity != model.identity
    assert made(graph=Graph("other", GRAPH.nodes)).identity != model.identity


def test_classes_are_numbers_where_none_are_given() -> None:
    assert made(classes=()).classes == tuple("0123456789")


def test_tensors_cannot_be_changed() -> None:
    source = tensors()
    model = made(tensors=source)
    source["fc.bias"][0] = 99
    assert model.tensors["fc.bias"][0] != 99
    with pytest.raises(ValueError, match="read-only"):
        model.tensors["fc.bias"][0] = 1
    with pytest.raises(TypeError):
        model.ranges["relu1"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("fc.bias", None, "missing"),
        ("fc.extra", np.zeros(3, np.float32), "unknown"),
        ("fc.bias", np.zeros(11, np.float32), "expected"),
        ("fc.bias", np.zeros(10, np.int64), "int64"),
        ("fc.bias", np.zeros(10, np.complex64), "complex64"),
        ("fc.bias", np.full(10, np.nan, np.float32), "NaN"),
        ("fc.bias", np.full(10, 1e300), "infinite"),
        ("bn1.running_var", np.full(4, -1, np.float32), "negative variance"),
    ],
)
def test_a_bad_tensor_is_named(name: str, value: np.ndarray | None, words: str) -> None:
    changed = tensors() | {name: value}
    with pytest.raises(WeightsError, match=words) as caught:
        made(tensors={k: v for k, v in changed.items() if v is not None})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (1, 2)},
        {"mean": (1, 2, np.nan)},
        {"std": (1, 0, 1)},
        {"std": (1, -1, 1)},
        {"std": (1, np.nan, 1)},
        {"classes": ("one",)},
        {"classes": tuple("abcdefghijk")},
        {"ranges": {"relu1": 1.0}},
        {"ranges": dict.fromkeys([*RELUS, "fc"], 1.0)},
        {"ranges": dict.fromkeys(RELUS, np.inf)},
        {"ranges": dict.fromkeys(RELUS, np.nan)},
        {"ranges": dict.fromkeys(RELUS, -1.0)},
    ],
    ids=str,
)
def test_bad_facts_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WeightsError):
        made(**changes)


def test_a_range_that_is_no_range_of_the_network_is_refused_when_compiling() -> None:
    ranges = dict.fromkeys(RELUS, 4.0)
    fheinfer.compile(made(ranges=ranges | {"relu1": 4000.0}), "insecure-tiny")
    with pytest.raises(PlanError, match=r"the range 1.2e\+12 of activation 'relu1' is 2e\+11 times the median"):
        fheinfer.compile(made(ranges=ranges | {"relu1": 1e12}), "insecure-tiny")


# Hostile files


def reads_or_refuses(path: Path, original: Model | None = None) -> None:
    """Typed, in one line; or, where the change is one that means nothing, the same model."""
    try:
        again = load(path)
    except (WeightsError, GraphError) as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)
    else:
        assert original is not None
        assert same(again, original)


@fuzz
@given(st.data())
def test_a_damaged_file_is_refused_or_means_the_same(tmp_path: Path, data: st.DataObject) -> None:
    path, model = tmp_path / "m.safetensors", made()
    content = bytearray(model.to_bytes())
    in_header = st.integers(0, 6000) | st.integers(0, len(content) - 1)
    if data.draw(st.booleans()):
        del content[data.draw(in_header) :]
    else:
        content[data.draw(in_header)] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    reads_or_refuses(path, model)


@fuzz
@given(st.binary(max_size=200))
def test_random_bytes_never_crash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    reads_or_refuses(tmp_path / "m.safetensors")


def with_metadata(**changes: object) -> bytes:
    metadata = tensor_metadata(made().to_bytes())
    return tensor_bytes(tensors(), {k: v for k, v in (metadata | changes).items() if v is not ...})


def header(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "a length and nothing": lambda: bytes(8),
    "a huge header": lambda: (1 << 62).to_bytes(8, "little") + b"{}",
    "a negative header": lambda: b"\xff" * 8 + b"{}",
    "a deep header": lambda: header(nested(100_000)),
    "deep metadata": lambda: save(tensors(), {"fheinfer": nested(100_000)}),
    "metadata that is a list": lambda: save(tensors(), {"fheinfer": "[]"}),
    "metadata that is no JSON": lambda: save(tensors(), {"fheinfer": "{"}),
    "a long number": lambda: save(tensors(), {"fheinfer": '{"format": ' + "9" * 5000 + "}"}),
    "someone else's tensors": lambda: save(tensors()),
    "half precision": lambda: tensor_bytes(
        {name: array.astype(np.float16) for name, array in tensors().items()}, tensor_metadata(made().to_bytes())
    ),
    "whole numbers": lambda: tensor_bytes(
        {name: array.astype(np.int32) for name, array in tensors().items()}, tensor_metadata(made().to_bytes())
    ),
    "a tensor less": lambda: tensor_bytes(
        {name: array for name, array in tensors().items() if name != "fc.bias"}, tensor_metadata(made().to_bytes())
    ),
    "a tensor more": lambda: tensor_bytes(
        tensors() | {"extra": np.zeros(1, np.float32)}, tensor_metadata(made().to_bytes())
    ),
    "another format": lambda: with_metadata(format="fheinfer-model-9"),
    "no graph": lambda: with_metadata(graph=...),
    "a graph of nothing": lambda: with_metadata(graph=None),
    "nodes that are numbers": lambda: with_metadata(graph={"name": "x", "nodes": [1, 2]}),
    "no ranges": lambda: with_metadata(ranges=...),
    "ranges that are a list": lambda: with_metadata(ranges=[1, 2]),
    "ranges that are words": lambda: with_metadata(ranges=dict.fromkeys(RELUS, "wide")),
    "a mean that is a word": lambda: with_metadata(mean="no"),
    "a mean of nothing": lambda: with_metadata(mean=None),
    "a mean of lists": lambda: with_metadata(mean=[[], [], []]),
    "a mean too large": lambda: with_metadata(mean=[10**400, 1, 1]),
    "another mean": lambda: with_metadata(mean=[0.1, 0.1, 0.1]),
    "other ranges": lambda: with_metadata(ranges=dict.fromkeys(RELUS, 1.0)),
    "other classes": lambda: with_metadata(classes=list("jihgfedcba")),
    "other words": lambda: with_metadata(provenance={"by": "someone else"}),
    "another checksum": lambda: with_metadata(checksum="0" * 64),
    "no checksum": lambda: with_metadata(checksum=...),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(HOSTILE[name]())
    reads_or_refuses(tmp_path / "m.safetensors")


def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    strange = [Path("x" * 5000), Path("a\0b"), tmp_path / "[/red]", Path(os.fsdecode(b"\xff\xfe"))]
    for path in (tmp_path / "gone", tmp_path, tmp_path / "fifo", tmp_path / "loop", Path("/dev/zero"), *strange):
        with pytest.raises(WeightsError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    made().save(tmp_path / "m.safetensors")
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(WeightsError, match="larger than the 100 bytes"):
        load(tmp_path / "m.safetensors")


def test_safetensors_of_others_say_how_to_import_them(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match="fheinfer model import"):
        load(tmp_path / "m.safetensors")


def test_an_operation_of_a_later_version_is_named(tmp_path: Path) -> None:
    graph = graph_to_json(GRAPH)
    graph["nodes"][2]["op"] = "swish"
    (tmp_path / "m.safetensors").write_bytes(with_metadata(graph=graph))
    with pytest.raises(GraphError, match="node 'bn1': unknown operation 'swish'; there are input, conv2d"):
        load(tmp_path / "m.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    made().save(path)
    before = path.read_bytes()

    def fails(fd: int, content: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fails)
    with pytest.raises(StorageError, match="disk is full"):
        made(provenance={}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_all_errors_are_errors_of_fheinfer() -> None:
    assert issubclass(WeightsError, FheinferError)
    assert issubclass(GraphError, FheinferError)


def test_a_changed_model_is_checked_again() -> None:
    with pytest.raises(WeightsError, match="mean must be 3 numbers, one per colour channel"):
        replace(made(), mean=())


def two_outputs(**changes: Any) -> Model:
    nodes = (
        Node("x", Input((4,))),
        Node("a", Linear(3, "a.weight"), ("x",)),
        Node("b", Product(), ("a", "a")),
    )
    weight = {"a.weight": np.ones((3, 4), np.float32)}
    fields: dict[str, Any] = {"graph": Graph("two", nodes, ("a", "b")), "tensors": weight}
    return Model(**{**fields, "mean": (0.0,) * 4, "std": (1.0,) * 4, **changes})


def test_several_outputs_have_no_classes_and_come_back(tmp_path: Path) -> None:
    model = two_outputs()
    model.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.graph.outputs == ("a", "b")
    assert again.classes == ()
    assert again.identity == model.identity
    with pytest.raises(WeightsError, match="3 class names for a network whose output is no single vector"):
        two_outputs(classes=("a", "b", "c"))
    with pytest.raises(GraphError, match="two has the outputs a, b; this takes networks of one"):
        _ = model.graph.output


@pytest.mark.parametrize("final", ["softmax", "log_softmax", "sigmoid"])
def test_what_the_client_does_to_outputs_comes_back(tmp_path: Path, final: str) -> None:
    model = made(final=final)
    model.save(tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors").final == final
    with pytest.raises(WeightsError, match="'argmax' is nothing that a client does"):
        made(final="argmax")


def test_final_is_part_of_the_checksum(tmp_path: Path) -> None:
    model = made(final="softmax")
    data = model.to_bytes()
    forged = tensor_bytes(model.tensors, {**tensor_metadata(data), "final": "sigmoid"})
    (tmp_path / "m.safetensors").write_bytes(forged)
    with pytest.raises(WeightsError, match="changed since it was written"):
        load(tmp_path / "m.safetensors")


def test_products_pools_and_the_input_may_have_ranges() -> None:
    assert two_outputs(ranges={"x": 7.0, "b": 3.0}).input_bound == 7
    assert two_outputs().input_bound == 1
    with pytest.raises(WeightsError, match="not those of the network's activations"):
        two_outputs(ranges={"a": 3.0})


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (["c"], "has no node 'c'"),
        (["x"], "there is nothing to compute"),
        (["b", "b"], "has an output twice"),
        ("b", ""),
    ],
)
def test_outputs_that_cannot_be_are_refused(outputs: Any, says: str) -> None:
    content = graph_to_json(two_outputs().graph) | {"outputs": outputs}
    with pytest.raises(GraphError, match=says or "are not a list of names"):
        graph_from_json(content)
