"""Split models: the first layers in clear at the client, the rest encrypted; together they are the network."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.split import split
from fheinfer.crypto import client_operations
from fheinfer.crypto.client_layers import ClientLayers
from fheinfer.crypto.client_operations import LAYERS, SIZES
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError, PlanError, RangeError, UsageError
from fheinfer.model import ops
from fheinfer.model.graph import Graph, Node
from fheinfer.model.model import Model
from fheinfer.tensor_file import tensor_bytes
from tests.conftest import calibrated, random_model, tiny_pixels

F64 = NDArray[np.float64]
TINY = "insecure-tiny"

ONE: dict[str, ops.Op] = {
    "conv2d": ops.Conv2d(6, (3, 2), (2, 1), (1, 0, 2, 1), "w", "b", (1, 2), 2),
    "conv_transpose2d": ops.ConvTranspose2d(6, (3, 2), (2, 3), (1, 0, 2, 1), "w", "b", (1, 2), 2, (1, 0)),
    "linear": ops.Linear(5, "w", "b"),
    "resample": ops.Resample((7, 3), "rows", "columns", "gain"),
    "batch_norm": ops.BatchNorm(1e-3, "w", "b", "m", "var"),
    "max_pool": ops.MaxPool((3, 2), (2, 1), (1, 0, 1, 1)),
    "mean_pool": ops.MeanPool(3, 2, 1, False),
    "prelu": ops.Prelu("w"),
    "herpn": ops.HerPN(1e-3, "w", "b", "m", "var"),
    "paf": ops.Paf((3, 5), "coefficients", "scale"),
    "avg_pool": ops.GlobalAvgPool(),
    "reduce": ops.Reduce((0, 2), True, True),
    "add": ops.Add(),
    "subtract": ops.Subtract(),
    "product": ops.Product(),
    "multiply_constant": ops.MultiplyConstant("w", (4, 1, 1)),
    "add_constant": ops.AddConstant("w", (4, 6, 5)),
    "reshape": ops.Reshape((8, 15)),
    "permute": ops.Permute((2, 0, 1)),
    "slice": ops.Slice(1, 1, 6, 2),
    "concat": ops.Concat(2, 3),
    "expand": ops.Expand((4, 6, 5)),
    "pad": ops.Pad((0, 1, 2, 0, 1, 1)),
    "relu": ops.Relu(),
    "clip": ops.Clip(-0.5, 0.7),
    "leaky_relu": ops.LeakyRelu(0.2),
    "elu": ops.Elu(0.7),
    "selu": ops.Selu(),
    "silu": ops.Silu(),
    "gelu": ops.Gelu(),
    "hardswish": ops.Hardswish(),
    "hardsigmoid": ops.Hardsigmoid(),
    "sigmoid": ops.Sigmoid(),
    "tanh": ops.Tanh(),
    "softplus": ops.Softplus(2.0, 3.0),
    "mish": ops.Mish(),
    "abs": ops.Abs(),
    "power": ops.Power(3),
}
MORE: list[ops.Op] = [
    ops.Gelu("tanh"),
    ops.Prelu("w", True),
    ops.MeanPool(2, 1, (1, 0, 0, 1), True),
    ops.MaxPool(2, 1, 0, (2, 1)),
    ops.Conv2d(3, 1, 1, 0, "w"),
    ops.ConvTranspose2d(4, 2, 2, 0, "w"),
    ops.Resample(9, "rows", "columns"),
    ops.Reduce((0, 1, 2), False),
    ops.Slice(2, 0, 5),
]


def test_clients_compute_every_operation_of_networks_and_each_is_tried() -> None:
    assert ONE.keys() == LAYERS.keys() == ops.NETWORK.keys() - {"input"}
    known = {field.name for op in ONE.values() for field in dataclasses.fields(op)}
    assert known >= SIZES


@pytest.mark.parametrize("op", [*ONE.values(), *MORE], ids=repr)
def test_a_layer_in_numpy_is_that_of_the_graph(op: ops.Op) -> None:
    torch = pytest.importorskip("torch")
    shape = (4, 1, 5) if isinstance(op, ops.Expand) else (4, 6, 5)
    graph = Graph("one", (Node("x", ops.Input(shape)), Node("y", op, ("x",) * op.arity)))
    rng = np.random.default_rng(5)
    tensors = {name: rng.uniform(0.2, 1.5, shape).astype(np.float32) for name, shape in graph.tensor_shapes().items()}
    model = Model(graph, tensors, (0.0,) * 4, (1.0,) * 4)
    x = rng.normal(0, 2, (3, *shape))
    given = {role: torch.tensor(tensors[name], dtype=torch.float64) for role, name in op.tensors.items()}
    expected = op.reference([torch.tensor(x)] * op.arity, given).numpy()
    found = ClientLayers.from_bytes(model.to_bytes(), "one")(x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-12


def test_a_convolution_by_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    weight, x = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=(2, 3, 11, 7))
    node = {"name": "y", "op": "conv2d", "inputs": ["x"], "kernel": 3, "stride": 1, "padding": 1, "weight": "w"}
    layers = ClientLayers(b"", ({"name": "x", "op": "input"}, node), {"w": weight})
    whole = layers(x)
    monkeypatch.setattr(client_operations, "MAX_COPIED", 4 * 3 * 7 * 9)
    assert np.abs(layers(x) - whole).max() < 1e-12


def network() -> Graph:
    nodes = [
        Node("x", ops.Input((3, 8, 8))),
        Node("conv1", ops.Conv2d(4, 3, 2, 1, "conv1.weight", "conv1.bias"), ("x",), module="features.0"),
        Node("relu1", ops.Relu(), ("conv1",), module="features.1"),
        Node("conv2", ops.Conv2d(4, 3, 1, 1, "conv2.weight", "conv2.bias"), ("relu1",), module="features.2"),
        Node("relu2", ops.Relu(), ("conv2",), module="features.3"),
        Node("sum", ops.Add(), ("relu2", "relu1")),
        Node("relu3", ops.Relu(), ("sum",)),
        Node("pool", ops.GlobalAvgPool(), ("relu3",)),
        Node("fc", ops.Linear(5, "fc.weight", "fc.bias"), ("pool",), module="head"),
    ]
    return Graph("split", tuple(nodes))


@pytest.fixture(scope="module")
def model() -> Model:
    pytest.importorskip("torch")
    return calibrated(random_model(network(), 1), range(3000, 3030))


@pytest.fixture(scope="module")
def plan(model: Model) -> Plan:
    return fheinfer.compile(model, TINY, client_until="features.1")


def image(model: Model, seed: int = 3000) -> F64:
    return fheinfer.normalise(tiny_pixels(seed), model.mean, model.std)


@pytest.mark.parametrize("until", ["relu1", "conv1", "features.0", "features.1", "relu3", "pool"])
def test_the_two_parts_are_the_network(model: Model, until: str) -> None:
    cut = split(model, until, 1.2)
    x = image(model)
    between = cut.first(x[None])[0]
    layers = fheinfer.plain_layers(model, x)
    assert np.abs(between - layers[cut.rest.graph.input.name]).max() < 1e-9
    assert np.abs(fheinfer.plain_outputs(cut.rest, between) - layers["fc"]).max() < 1e-9
    assert np.abs(between).max() <= cut.rest.input_bound * 1.0001
    assert not set(cut.first.tensors) & set(cut.rest.tensors)


@pytest.mark.parametrize("until", ["padded", "joined", "relu"])
def test_stems_of_pads_parts_and_joins_are_cut_too(until: str) -> None:
    """MLPerf's ResNet8 pads before its first convolution; what is encrypted may also be no activation's."""
    pytest.importorskip("torch")
    nodes = [
        Node("x", ops.Input((3, 8, 8))),
        Node("padded", ops.Pad((0, 0, 1, 0, 0, 1)), ("x",)),
        Node("part", ops.Slice(0, 0, 1), ("padded",)),
        Node("joined", ops.Concat(0, 2), ("padded", "part")),
        Node("conv", ops.Conv2d(4, 3, 2, 0, "conv.weight"), ("joined",)),
        Node("relu", ops.Relu(), ("conv",)),
        Node("pool", ops.GlobalAvgPool(), ("relu",)),
        Node("fc", ops.Linear(5, "fc.weight", "fc.bias"), ("pool",)),
    ]
    model = calibrated(random_model(Graph("stem", tuple(nodes)), 1), range(3000, 3005))
    cut = split(model, until, 1.2)
    x = image(model)
    between = cut.first(x[None])[0]
    assert np.abs(fheinfer.plain_outputs(cut.rest, between) - fheinfer.plain_outputs(model, x)).max() < 1e-9
    assert 0 < np.abs(between).max() <= cut.rest.input_bound * 1.0001


def test_encrypted_it_gives_what_the_whole_network_gives(model: Model, plan: Plan, tmp_path: Path) -> None:
    """By files in separate folders: the server's has no layer of the client."""
    plan.save(tmp_path / "plan")
    fheinfer.keygen(ClientSpec.load(tmp_path / "plan"), tmp_path / "keys")
    server = tmp_path / "server"
    server.mkdir()
    shutil.copy(tmp_path / "plan" / "plan.safetensors", server)
    shutil.copytree(tmp_path / "keys" / "server", server / "server")
    client = fheinfer.Client(tmp_path / "keys", ClientSpec.load(tmp_path / "plan"))
    x = image(model)
    encrypted = client.encrypt(x)
    result = fheinfer.Server().session(server / "plan.safetensors", server / "server").evaluate(encrypted)
    found = client.decrypt(result, request=encrypted)
    assert fheinfer.precision_bits(fheinfer.run_slots(plan, x), found).minimum > 12
    assert np.abs(found - fheinfer.plain_outputs(model, x)).max() < 0.2 * np.abs(found).max()
    first = model.tensors["conv1.weight"].tobytes()
    assert first in (tmp_path / "plan" / "client.safetensors").read_bytes()
    assert first not in (server / "plan.safetensors").read_bytes()
    assert "conv1.weight" not in (tmp_path / "plan" / "client.json").read_text()


def test_it_takes_fewer_levels_than_the_whole(model: Model, plan: Plan) -> None:
    whole = fheinfer.compile(model, TINY)
    assert len(plan.steps) < len(whole.steps)
    assert plan.client.input_shape == (3, 8, 8) == whole.client.input_shape
    assert plan.client.input.shape == (4, 4, 4)
    assert (plan.client.mean, plan.client.std) == (model.mean, model.std)


def test_the_layers_are_bound_to_client_json(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path)
    path = tmp_path / "client.safetensors"
    good = path.read_bytes()
    assert ClientSpec.load(tmp_path) == plan.client
    ClientSpec.load(tmp_path).save(tmp_path / "copy.json")
    assert (tmp_path / "copy.safetensors").read_bytes() == good
    changed = bytearray(good)
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(MismatchError, match=r"layers of the client are not those"):
        ClientSpec.load(tmp_path)
    for bad in (b"", good[:100], b"\0" * 64, json.dumps({"graph": 1}).encode()):
        path.write_bytes(bad)
        with pytest.raises(CorruptArtifactError, match="no layers for a client"):
            ClientSpec.load(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"no such file; it has the first layers"):
        ClientSpec.load(tmp_path)
    alone = ClientSpec.from_bytes((tmp_path / "client.json").read_bytes())
    with pytest.raises(InputError, match=r"which are in client\.safetensors"):
        alone.pack(np.zeros((3, 8, 8)))


@pytest.mark.parametrize("fields", [
    {"op": "max_pool", "kernel": 2, "padding": 10**6},
    {"op": "max_pool", "kernel": 2, "stride": 0},
    {"op": "conv2d", "kernel": 1, "groups": 0, "weight": "w"},
    {"op": "power", "exponent": 10**400},
    {"op": "slice", "axis": -1, "start": 0, "stop": 1},
    {"op": "reduce", "axes": [-1], "mean": True},
    {"op": "linear", "weight": "deep"},
    {"op": "resample", "inputs": ["parts"], "rows": "square", "columns": "square"},
    {"op": "paf", "degrees": [3], "coefficients": "square", "scale": "w"},
    {"op": "paf", "degrees": [3, -1], "coefficients": "two", "scale": "w"},
    {"op": "paf", "degrees": [3, 3], "coefficients": "two", "scale": "w"},
])  # fmt: skip
def test_layers_that_cannot_be_computed_are_refused(fields: dict[str, Any]) -> None:
    parts = {"name": "parts", "op": "reshape", "inputs": ["x"], "shape": [1, 2, 2, 4]}
    nodes = ({"name": "x", "op": "input"}, parts, {"name": "y", "inputs": ["x"], **fields})
    shapes = {"w": (1, 1, 1, 1), "deep": (1, 16, 3), "square": (2, 2), "two": (2,)}
    layers = ClientLayers(b"", nodes, {name: np.ones(shape) for name, shape in shapes.items()})
    with pytest.raises(CorruptArtifactError, match="do not fit each other"):
        layers(np.ones((2, 1, 4, 4)))


@pytest.mark.parametrize("fields", [
    {"op": "max_pool", "kernel": 257, "padding": 128},
    {"op": "mean_pool", "kernel": 257, "padding": 128},
    {"op": "conv2d", "kernel": 257, "padding": 128, "weight": "w"},
])  # fmt: skip
def test_layers_take_no_more_work_than_their_bound(fields: dict[str, Any]) -> None:
    """2^34 values in windows over an image of 2^18, from a few bytes."""
    nodes = ({"name": "x", "op": "input"}, {"name": "y", "inputs": ["x"], "stride": 1, **fields})
    with pytest.raises(CorruptArtifactError, match="values in windows, more than the 17179869184"):
        ClientLayers(b"", nodes, {"w": np.ones((1, 1, 257, 257))})(np.ones((1, 1, 512, 512)))


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_convolutions_take_as_many_products_as_there_may_be(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have 6 x 6 times 3 x 3 products here, of each of 2 channels with each of 4."""
    fields = {"op": op, "kernel": 3, "stride": 1, "padding": 1, "weight": op}
    weights = {"conv2d": np.ones((4, 2, 3, 3)), "conv_transpose2d": np.ones((2, 4, 3, 3))}
    layers = ClientLayers(b"", ({"name": "x", "op": "input"}, {"name": "y", "inputs": ["x"], **fields}), weights)
    monkeypatch.setattr(client_operations, "MAX_PRODUCTS", 36 * 9 * 2 * 4)
    assert layers(np.ones((5, 2, 6, 6))).shape == (5, 4, 6, 6)
    monkeypatch.setattr(client_operations, "MAX_PRODUCTS", 36 * 9 * 2 * 4 - 1)
    with pytest.raises(CorruptArtifactError, match="products, more than the 2591"):
        layers(np.ones((5, 2, 6, 6)))


def test_real_networks_are_far_from_the_bounds_of_work() -> None:
    windows = 224 * 224 * 512 * 7 * 7
    assert windows * 10 < client_operations.MAX_WINDOWS
    assert windows * 512 < client_operations.MAX_PRODUCTS


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"op": "argmax"}, "argmax"),
        ({"op": "reshape", "shape": [4, "6", 5]}, "shape is"),
        ({"op": "max_pool", "kernel": 2, "dilation": "22"}, "dilation is 22"),
        ({"op": "leaky_relu", "slope": [1.0] * 5}, "slope is"),
    ],
)
def test_operations_and_fields_that_clients_do_not_compute_are_named(fields: dict[str, Any], says: str) -> None:
    nodes = [{"name": "x", "op": "input", "shape": [4, 6, 5]}, {"name": "y", "inputs": ["x"], **fields}]
    data = tensor_bytes({}, {"graph": {"nodes": nodes}})
    with pytest.raises(CorruptArtifactError, match=rf"no layers for a client .*{says}"):
        ClientLayers.from_bytes(data, "file")


@pytest.mark.parametrize("array", [np.zeros((9, 0), np.float32), np.ones(3, np.int8)])
def test_tensors_that_are_larger_than_their_bytes_are_refused(array: NDArray[Any]) -> None:
    data = tensor_bytes({"w": array}, {"graph": {"nodes": [{"name": "x", "op": "input"}]}})
    with pytest.raises(CorruptArtifactError, match="a tensor that is empty, or not of float32"):
        ClientLayers.from_bytes(data, "file")


OWN = (
    "relu", "clip", "leaky_relu", "elu", "selu", "silu", "gelu", "hardswish", "hardsigmoid", "sigmoid", "tanh",
    "softplus", "mish", "abs", "power",
)  # fmt: skip
"""They make no more of a value than there was, which may be more than half of what there may be."""
LARGE: list[dict[str, Any]] = [
    {"op": "expand", "shape": [1, 4, 10**6]},
    {"op": "pad", "sides": [0, 10**4, 0, 10**3, 0, 0]},
    {"op": "concat", "axis": 0, "inputs": ["x"] * 10**4},
    {"op": "resample", "rows": "long", "columns": "long"},
    {"op": "resample", "inputs": ["parts"], "rows": "column", "columns": "column"},
    {"op": "conv_transpose2d", "kernel": 1, "stride": 10**4, "weight": "one"},
    {"op": "max_pool", "kernel": 2, "padding": 10**6},
    {"op": "mean_pool", "kernel": 2, "padding": 10**6},
    {"op": "conv2d", "kernel": 1, "stride": 1, "weight": "many"},
    {"op": "conv2d", "kernel": 15, "padding": 50, "weight": "wide"},
    {"op": "linear", "weight": "deep"},
    {"op": "batch_norm", "eps": 1.0, "weight": "long", "bias": "one", "mean": "one", "var": "one"},
    {"op": "herpn", "eps": 1.0, "weight": "one", "bias": "one", "mean": "deep", "var": "long"},
    {"op": "paf", "degrees": [3], "coefficients": "deep", "scale": "one"},
    {"op": "add", "inputs": ["x", "turned"]},
    {"op": "subtract", "inputs": ["x", "turned"]},
    {"op": "product", "inputs": ["x", "turned"]},
    {"op": "add_constant", "value": "long"},
    {"op": "multiply_constant", "value": "long"},
    {"op": "prelu", "weight": "long"},
    {"op": "slice", "axis": 10**8, "start": 0, "stop": 1},
    {"op": "reshape", "shape": [1] * 10**3},
    {"op": "permute", "order": [0] * 10**3},
    {"op": "reduce", "axes": [0] * 10**3, "mean": True},
    {"op": "avg_pool", "inputs": ["flat"]},
    *(
        {"op": name, "inputs": ["half"], **({"low": 0, "high": 1} if name == "clip" else {}), "exponent": 3}
        for name in OWN
    ),
]


def test_every_layer_is_asked_for_too_much() -> None:
    assert {fields["op"] for fields in LARGE} == LAYERS.keys()


@pytest.mark.parametrize("fields", LARGE, ids=lambda fields: fields["op"])
def test_layers_take_no_more_memory_than_their_bound(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_operations, "MAX_VALUES", 1 << 14)
    nodes = (
        {"name": "x", "op": "input"},
        {"name": "turned", "op": "reshape", "inputs": ["x"], "shape": [1, 128, 1]},
        {"name": "flat", "op": "reshape", "inputs": ["x"], "shape": [128]},
        {"name": "parts", "op": "reshape", "inputs": ["x"], "shape": [1, 128, 1, 1]},
        {"name": "half", "op": "expand", "inputs": ["x"], "shape": [1, 65, 128]},
        {"name": "y", "inputs": ["x"], **fields},
        {"name": "both", "op": "subtract", "inputs": ["half", "y"]},
    )
    layers = ClientLayers(b"", nodes, {name: np.ones(shape) for name, shape in SHAPES.items()})
    tracemalloc.start()
    try:
        with pytest.raises(CorruptArtifactError, match="do not fit each other"):
            layers(np.ones((1, 1, 1, 128)))
        assert tracemalloc.get_traced_memory()[1] < 8 * (1 << 16)
    finally:
        tracemalloc.stop()


SHAPES = {
    "one": (1, 1, 1, 1), "many": (1000, 1, 1, 1), "wide": (1, 1, 15, 15), "long": (1000, 128), "deep": (1, 128, 1000),
    "column": (100, 1),
}  # fmt: skip


def test_only_values_that_are_used_again_are_kept_and_all_of_them_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_operations, "MAX_VALUES", 64)
    names = ["x", *"abcdef"]
    chain: list[dict[str, Any]] = [{"name": "x", "op": "input"}]
    chain += [{"name": name, "op": "relu", "inputs": [before]} for before, name in pairwise(names)]
    assert (ClientLayers(b"", tuple(chain), {})(np.ones((2, 32))) == 1).all()
    both = {"name": "sum", "op": "concat", "axis": 0, "inputs": names}
    with pytest.raises(CorruptArtifactError, match="96 values, more than the 64"):
        ClientLayers(b"", (*chain, both), {})(np.ones((2, 32)))


@pytest.mark.parametrize(
    "until, says",
    [
        ("nowhere", r"no node or module 'nowhere' in split; it has conv1, relu1, sum"),
        ("conv2", r"cannot be cut behind 'conv2'; it can behind conv1, relu1, sum, relu3, pool"),
        ("features.3", "cannot be cut behind 'relu2'"),
        ("x", "cannot be cut behind 'x'"),
        ("fc", "cannot be cut behind 'fc'"),
    ],
)
def test_where_it_cannot_be_cut_says_where_it_can(model: Model, until: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        split(model, until, 1.2)


def test_what_was_never_measured_says_so(model: Model) -> None:
    with pytest.raises(PlanError, match="did not measure how large the output of 'relu1' gets"):
        split(dataclasses.replace(model, ranges={}), "relu1", 1.2)


def test_inputs_beyond_calibration_are_refused_at_both_ends(plan: Plan, model: Model) -> None:
    with pytest.raises(RangeError, match="normalise it first"):
        plan.client.pack(np.full((3, 8, 8), 255.0))
    with pytest.raises(InputError, match="takes inputs of shape"):
        plan.client.pack(np.zeros((4, 4, 4)))
    low = plan.client.model_copy(update={"input": plan.client.input.model_copy(update={"scale": 1e-3})})
    with pytest.raises(RangeError, match="layers of the client reach"):
        low.pack(image(model))


def test_many_at_once_are_those_of_one(plan: Plan, model: Model) -> None:
    torch = pytest.importorskip("torch")
    from fheinfer.evaluation.batch import Batch

    images = np.stack([image(model, seed) for seed in range(3000, 3004)])
    (logits,) = Batch(plan).outputs(torch.from_numpy(images).float()).values()
    for x, found in zip(images, logits.numpy(), strict=True):
        exact: Any = fheinfer.run_slots(plan, x)
        assert np.abs(found - exact).max() < 1e-3 * max(1.0, math.fabs(float(np.abs(exact).max())))
