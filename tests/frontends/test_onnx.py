"""Networks made with ONNX's own helpers: what they become, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import fheinfer
from fheinfer.errors import FheinferError, GraphError, InputError, UsageError, WeightsError
from fheinfer.frontends.comparing import evaluate
from fheinfer.frontends.onnx import checking, files, from_onnx, import_onnx
from fheinfer.model.model import Model, load
from fheinfer.model.ops import (
    AddConstant,
    Clip,
    Concat,
    Conv2d,
    Gelu,
    Hardsigmoid,
    Hardswish,
    Input,
    LeakyRelu,
    Linear,
    Mish,
    Op,
    Relu,
    Silu,
    Slice,
    Softplus,
)

pytest.importorskip("torch")

Array = NDArray[Any]
RNG = np.random.default_rng(3)


def weights(*shape: int) -> Array:
    return RNG.normal(0, 1, shape).astype(np.float32)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None] = (1, 6),
    constants: dict[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Nodes on an input "x"."""
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initialisers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto).graph.output
    except onnx.shape_inference.InferenceError:
        inferred = proto.graph.output
    for output, shaped in zip(proto.graph.output, inferred, strict=True):
        output.CopyFrom(shaped)
        if not output.type.tensor_type.HasField("shape"):
            output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None]))
    return proto


def node(kind: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), output.split(), output, **attributes)


def same(proto: onnx.ModelProto, model: Model, x: Array) -> bool:
    """Whether a model gives what ONNX's reference does."""
    expected: Any = ReferenceEvaluator(proto).run(None, {"x": x.astype(np.float32)})
    got = evaluate(model.graph, model.tensors, x)
    return all(np.allclose(g.ravel(), np.ravel(e), rtol=1e-4, atol=1e-4) for g, e in zip(got, expected, strict=True))


def ops(model: Model) -> list[type[Op]]:
    return [type(node.op) for node in model.graph]


# What networks become -------------------------------------------------------------------------------------------------


def mlp() -> onnx.ModelProto:
    constants = {"w": weights(4, 6), "b": weights(4), "v": weights(3, 4), "c": weights(3)}
    nodes = [node("Gemm", "x w b", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r v c", "logits", transB=1)]
    return model_of([*nodes, node("Softmax", "logits", "y", axis=1)], ("batch", 6), constants)


def test_a_perceptron_with_its_softmax_left_to_the_client(tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    onnx.save(mlp(), str(path))
    imported = import_onnx(path, classes=("a", "b", "c"))
    model = imported.model
    assert (ops(model), model.final, model.name) == ([Input, Linear, Relu, Linear], "softmax", "digits")
    assert (model.classes, model.mean, model.std) == (("a", "b", "c"), (0.0,) * 6, (1.0,) * 6)
    assert [node.module for node in model.graph] == ["", "h", "r", "logits"]
    assert model.provenance["imported from"] == "digits.onnx"
    assert any("softmax" in note for note in imported.notes)
    assert any("not normalised" in note for note in imported.notes)
    assert any("compared with ONNX's reference" in note for note in imported.notes)
    model.save(tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").identity == model.identity


def test_bytes_and_messages_are_taken_like_files(tmp_path: Path) -> None:
    proto = mlp()
    path = tmp_path / "net.onnx"
    onnx.save(proto, str(path))
    assert fheinfer.from_onnx is from_onnx
    identities = {from_onnx(source).identity for source in (path, str(path), proto.SerializeToString(), proto)}
    assert len(identities) == 1


def test_what_was_assumed_is_printed_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    proto = model_of([node("Relu", "x")])
    model = from_onnx(proto)
    printed = capsys.readouterr().err
    assert "inputs are not normalised" in printed
    assert model.provenance["notes"] in str(model)
    assert model.provenance["notes"] in printed
    assert "normalisation: none" in str(model)
    from_onnx(proto, quiet=True)
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="mean and std go together"):
        from_onnx(proto, mean=(0.5,) * model.graph.input_shape[0])


def test_external_data_beside_the_file_is_read(tmp_path: Path) -> None:
    path, proto = tmp_path / "net.onnx", mlp()
    identity = from_onnx(proto, name="net").identity
    onnx.save(proto, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    assert from_onnx(path).identity == identity


def test_names_that_hold_slashes_are_told_apart() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["/a/out"], "/layer/Relu"),
        helper.make_node("Tanh", ["/a/out"], ["y"], "layer.Relu"),
    ]
    graph = from_onnx(model_of(nodes)).graph
    assert [n.name for n in graph][:2] == ["x", "layer.Relu"]
    assert (graph.outputs, graph.nodes[1].module) == (("y",), "/layer/Relu")


def test_several_outputs_keep_their_names() -> None:
    nodes = [node("Relu", "x", "h"), node("Tanh", "h", "first"), node("Abs", "h", "second")]
    model = from_onnx(model_of(nodes, outputs=("second", "first")))
    assert (model.graph.outputs, model.classes) == (("second", "first"), ())


def test_what_no_output_needs_is_left_out() -> None:
    nodes = [node("Exp", "x", "unused"), node("Relu", "x", "y")]
    assert ops(from_onnx(model_of(nodes))) == [Input, Relu]


def test_a_flatten_that_an_exporter_computes_from_the_shape() -> None:
    """x.view(x.size(0), -1), as PyTorch writes it for a batch that is left open."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Unsqueeze", "batch zeros", "first"),
        node("Concat", "first rest", "sizes", axis=0),
        node("Reshape", "x sizes", "flat"),
        node("Gemm", "flat w", "y", transB=1),
    ]
    constants = {"zero": np.int64(0), "zeros": np.zeros(1, np.int64), "rest": -np.ones(1, np.int64)}
    model = from_onnx(model_of(nodes, ("n", 2, 3, 4), constants | {"w": weights(5, 24)}))
    assert ops(model)[-1] is Linear
    assert model.graph.input_shape == (2, 3, 4)


def test_a_fixed_batch_becomes_one() -> None:
    nodes = [node("Reshape", "x shape", "flat"), node("Gemm", "flat w", "y", transB=1)]
    proto = model_of(nodes, (4, 2, 3), {"shape": np.asarray([4, 6]), "w": weights(5, 6)})
    imported = import_onnx(proto)
    assert imported.model.graph.input_shape == (2, 3)
    assert any("batch of 4" in note for note in imported.notes)
    assert same(proto, imported.model, weights(4, 2, 3))


def test_a_file_that_mixes_the_items_of_its_batch_is_refused() -> None:
    with pytest.raises(GraphError, match="mixes the items of a batch"):
        from_onnx(model_of([node("ReduceMean", "x", axes=[0], keepdims=0)], (4, 3)))


def test_sizes_that_are_left_open_are_given() -> None:
    proto = model_of([node("Conv", "x w", pads=[1, 1, 1, 1])], ("n", 3, "h", "w"), {"w": weights(4, 3, 3, 3)})
    with pytest.raises(GraphError, match=r"\(n, 3, h, w\).*left open; give it as `--example-shape 1,3,32,32`"):
        from_onnx(proto)
    assert from_onnx(proto, shape=(3, 8, 9)).graph.shapes["y"] == (4, 8, 9)
    with pytest.raises(GraphError, match="not"):
        from_onnx(proto, shape=(2, 8, 9))


def test_no_batch() -> None:
    proto = model_of([node("Softplus", "x")], (3, 4))
    assert from_onnx(proto).graph.input_shape == (4,)
    assert from_onnx(proto, batch=False).graph.input_shape == (3, 4)


def test_a_linear_layer_on_the_last_axis_is_a_convolution() -> None:
    proto = model_of([node("MatMul", "x w", "h"), node("Add", "h b")], (1, 5, 6), {"w": weights(6, 4), "b": weights(4)})
    model = from_onnx(proto)
    assert Conv2d in ops(model)
    assert same(proto, model, weights(1, 5, 6))


def test_constants_that_are_joined_to_a_value_are_a_sum() -> None:
    proto = model_of([node("Concat", "c x d x", axis=1)], (1, 3), {"c": weights(1, 2), "d": weights(1, 1)})
    model = from_onnx(proto)
    assert (Concat in ops(model), ops(model)[-1]) == (True, AddConstant)
    assert same(proto, model, weights(1, 3))


def test_a_gather_of_a_channel_shuffle_is_slices() -> None:
    order = np.arange(8).reshape(2, 4).T.ravel()
    proto = model_of([node("Gather", "x i", axis=1)], (1, 8, 2, 2), {"i": order})
    model = from_onnx(proto)
    assert ops(model).count(Slice) == 4
    assert same(proto, model, weights(1, 8, 2, 2))


def test_a_branch_on_shapes_is_taken_ahead() -> None:
    """PyTorch writes squeeze() so."""
    yes = helper.make_graph([node("Relu", "x", "a")], "yes", [], [helper.make_tensor_value_info("a", 1, None)])
    no = helper.make_graph([node("Exp", "x", "b")], "no", [], [helper.make_tensor_value_info("b", 1, None)])
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape one", "size"),
        node("Equal", "size six", "condition"),
        node("If", "condition", then_branch=yes, else_branch=no),
    ]
    assert Relu in ops(from_onnx(model_of(nodes, (1, 6), {"one": np.int64(1), "six": np.int64(6)})))


# Activations written out ----------------------------------------------------------------------------------------------

S = np.float32
SPELLINGS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], Op]] = {
    "silu": ([node("Sigmoid", "x", "s"), node("Mul", "x s")], {}, Silu()),
    "silu by division": (
        [node("Neg", "x", "n"), node("Exp", "n", "e"), node("Add", "e one", "d"), node("Div", "x d")],
        {"one": S(1)},
        Silu(),
    ),
    "gelu": (
        [
            node("Div", "x r", "a"),
            node("Erf", "a", "e"),
            node("Add", "e one", "f"),
            node("Mul", "x f", "g"),
            node("Mul", "g half"),
        ],
        {"r": S(math.sqrt(2)), "one": S(1), "half": S(0.5)},
        Gelu(),
    ),
    "gelu by tanh": (
        [
            node("Pow", "x three", "p"),
            node("Mul", "p k", "q"),
            node("Add", "x q", "r"),
            node("Mul", "r m", "s"),
            node("Tanh", "s", "t"),
            node("Add", "t one", "u"),
            node("Mul", "x u", "v"),
            node("Mul", "v half"),
        ],
        {"three": S(3), "k": S(0.044715), "m": S(0.7978846), "one": S(1), "half": S(0.5)},
        Gelu("tanh"),
    ),
    "hard swish": (
        [node("Add", "x three", "a"), node("Clip", "a zero six", "c"), node("Mul", "x c", "m"), node("Div", "m six")],
        {"three": S(3), "zero": S(0), "six": S(6)},
        Hardswish(),
    ),
    "hard sigmoid": (
        [node("Add", "x three", "a"), node("Clip", "a zero six", "c"), node("Div", "c six")],
        {"three": S(3), "zero": S(0), "six": S(6)},
        Hardsigmoid(),
    ),
    "mish": ([node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t")], {}, Mish()),
    "softplus": ([node("Exp", "x", "e"), node("Add", "e one", "s"), node("Log", "s")], {"one": S(1)}, Softplus()),
    "relu6": ([node("Max", "x zero", "m"), node("Min", "m six")], {"zero": S(0), "six": S(6)}, Clip(0.0, 6.0)),
    "leaky relu": ([node("Mul", "x a", "l"), node("Max", "x l")], {"a": S(0.25)}, LeakyRelu(0.25)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_activation_that_is_written_out_becomes_one_operation(spelling: str) -> None:
    nodes, constants, op = SPELLINGS[spelling]
    proto = model_of(nodes, (1, 6), constants)
    model = from_onnx(proto)
    assert [node.op for node in model.graph][1:] == [op]
    assert same(proto, model, 3 * weights(1, 6))


def test_a_scaled_activation_keeps_its_factor() -> None:
    proto = model_of([node("Sigmoid", "x", "s"), node("Mul", "s x", "m"), node("Mul", "m k")], (1, 6), {"k": S(1.5)})
    model = from_onnx(proto)
    assert [node.op.kind for node in model.graph][1:] == ["silu", "multiply_constant"]
    assert same(proto, model, weights(1, 6))


def test_a_function_that_is_only_near_an_activation_is_not_taken_for_it() -> None:
    """x sigmoid(1.2 x) is no SiLU: it stays a product."""
    proto = model_of([node("Mul", "x k", "a"), node("Sigmoid", "a", "s"), node("Mul", "x s")], (1, 6), {"k": S(1.2)})
    model = from_onnx(proto)
    assert [node.op.kind for node in model.graph][1:] == ["multiply_constant", "sigmoid", "product"]
    assert same(proto, model, weights(1, 6))


def test_an_activation_whose_parts_are_read_elsewhere_keeps_them() -> None:
    nodes = [node("Sigmoid", "x", "s"), node("Mul", "x s", "y"), node("Add", "s x", "z")]
    proto = model_of(nodes, (1, 6), outputs=("y", "z"))
    model = from_onnx(proto)
    assert sorted(node.op.kind for node in model.graph) == ["add", "input", "sigmoid", "silu"]
    assert same(proto, model, weights(1, 6))


# Any attributes -------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.data())
def test_convolutions_of_any_attributes(data: st.DataObject) -> None:
    space = data.draw(st.integers(1, 2))
    groups = data.draw(st.sampled_from([1, 2, 4]))
    draw: Callable[[int, int], list[int]] = lambda low, high: [  # noqa: E731
        data.draw(st.integers(low, high)) for _ in range(space)
    ]
    size, kernel = draw(5, 9), draw(1, 3)
    attributes: dict[str, Any] = {"strides": draw(1, 3), "dilations": draw(1, 2)}
    auto = data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["pads"] = draw(0, 2) + draw(0, 2)
    elif auto != "VALID":
        attributes["dilations"] = [1] * space
    proto = model_of(
        [node("Conv", "x w b", group=groups, auto_pad=auto, **attributes)],
        (1, 4, *size),
        {"w": weights(8, 4 // groups, *kernel), "b": weights(8)},
    )
    model = from_onnx(proto)
    assert model.provenance["onnx"] == "compared with ONNX's reference"
    assert same(proto, model, weights(1, 4, *size))


@settings(max_examples=25)
@given(st.data())
def test_average_pools_of_any_attributes(data: st.DataObject) -> None:
    size = [data.draw(st.integers(4, 8)) for _ in range(2)]
    kernel = [data.draw(st.integers(2, 3)) for _ in range(2)]
    proto = model_of(
        [
            node(
                "AveragePool",
                "x",
                kernel_shape=kernel,
                strides=[data.draw(st.integers(1, 3)) for _ in range(2)],
                pads=[data.draw(st.integers(0, 1)) for _ in range(4)],
                count_include_pad=data.draw(st.integers(0, 1)),
            )
        ],
        (1, 2, *size),
    )
    assert same(proto, from_onnx(proto), weights(1, 2, *size))


# What is refused ------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "an unknown operation": (model_of([helper.make_node("Magic", ["x"], ["y"], domain="acme")]), "acme"),
    "a missing value": (model_of([node("Relu", "nothing")]), "nothing"),
    "a cycle": (model_of([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b")]), "a cycle"),
    "an attribute of a wrong type": (model_of([node("Flatten", "x", axis="one")]), "axis"),
    "text and numbers added": (
        model_of([node("Add", "x c")], constants={"c": np.asarray(["a"])}),
        "Add",
    ),
    "whole numbers": (model_of([node("Cast", "x", to=1)], kind=TensorProto.INT64), "real numbers"),
    "softmax in the middle": (
        model_of([node("Softmax", "x", "s"), node("Relu", "s")]),
        "Softmax 's': is in the middle",
    ),
    "softmax over a part": (model_of([node("Softmax", "x", axis=1)], (1, 2, 3)), "over all outputs"),
    "attention": (
        model_of([node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t")], (1, 2, 3)),
        "MatMul 'y': multiplies two matrices",
    ),
    "a division by a value": (model_of([node("Div", "x x")]), "Div 'y': divides"),
    "a division by zero": (model_of([node("Div", "x c")], constants={"c": S(0)}), "zero"),
    "3-d convolution": (
        model_of([node("Conv", "x w")], (1, 1, 3, 3, 3), {"w": weights(1, 1, 2, 2, 2)}),
        "only 1-d and 2-d",
    ),
    "a weight that depends on the input": (model_of([node("Conv", "x x")], (1, 1, 3, 3)), "the weight depends"),
    "NaN": (model_of([node("Gemm", "x w")], constants={"w": np.full((6, 2), np.nan, np.float32)}), "NaN"),
    "a negative variance": (
        model_of([node("BatchNormalization", "x o o o v")], (1, 2, 3), {"o": np.ones(2, S), "v": -np.ones(2, S)}),
        "negative variance",
    ),
    "training": (
        model_of([node("BatchNormalization", "x o o o o", "y m v", training_mode=1)], (1, 2, 3), {"o": np.ones(2, S)}),
        "evaluation mode",
    ),
    "a loop": (
        model_of(
            [
                node(
                    "Loop",
                    "n c x",
                    body=helper.make_graph(
                        [node("Identity", "c1", "c2"), node("Relu", "x1", "x2")],
                        "body",
                        [
                            helper.make_tensor_value_info("i", TensorProto.INT64, []),
                            helper.make_tensor_value_info("c1", TensorProto.BOOL, []),
                            helper.make_tensor_value_info("x1", TensorProto.FLOAT, None),
                        ],
                        [
                            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
                            helper.make_tensor_value_info("x2", TensorProto.FLOAT, None),
                        ],
                    ),
                )
            ],
            constants={"n": np.int64(3), "c": np.bool_(True)},
        ),
        "Loop 'y': is control flow",
    ),
    "an output without the input": (model_of([node("Relu", "c")], constants={"c": weights(3)}), "does not depend"),
    "an enormous constant": (
        model_of(
            [node("ConstantOfShape", "s", "c"), node("Add", "x c")],
            constants={"s": np.asarray([1 << 40, 6])},
        ),
        "more than a model may hold",
    ),
    "an enormous expansion": (
        model_of([node("Expand", "x s")], constants={"s": np.asarray([1 << 15, 1 << 15, 6])}),
        "more than",
    ),
    "an old opset": (model_of([node("Relu", "x")], opset=5), "opset 5"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_named_in_one_line(what: str) -> None:
    proto, message = REFUSED[what]
    with pytest.raises(FheinferError, match=message) as caught:
        from_onnx(proto)
    assert isinstance(caught.value, GraphError | WeightsError)
    assert "\n" not in str(caught.value)


def test_two_inputs_are_refused_by_name() -> None:
    proto = model_of([node("Add", "x other")], constants={"other": weights(1, 6)})
    proto.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1, 6]))
    del proto.graph.initializer[:]
    with pytest.raises(GraphError, match="inputs x, other; a network has one input"):
        from_onnx(proto)


def test_a_future_opset_is_refused() -> None:
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(FheinferError, match=f"opset {newest + 1}|version"):
        from_onnx(model_of([node("Relu", "x")], opset=newest + 1))


def test_a_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    data = mlp().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in (0, 1, 10, len(data) // 2, len(data) - 40, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(FheinferError, match=r"cut\.onnx: ") as caught:
            from_onnx(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"not a network", b"\x89PNG\r\n", b"{}", b"version https://git-lfs.github.com/spec"]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"other\.onnx: "):
        from_onnx(path)


def test_missing_files_folders_and_large_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        from_onnx(tmp_path / "none.onnx")
    with pytest.raises(WeightsError, match="folder"):
        from_onnx(tmp_path)
    path = tmp_path / "net.onnx"
    onnx.save(mlp(), str(path))
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    with pytest.raises(WeightsError, match="more than the 100"):
        from_onnx(path)


def test_a_tensor_that_promises_a_gigabyte_is_refused_unread() -> None:
    proto = mlp()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([1 << 14, 1 << 14])
    with pytest.raises(WeightsError, match=r"'w'.*holds 96 bytes instead of 1,073,741,824"):
        from_onnx(proto)
    proto.graph.initializer[0].dims.extend([1 << 14])
    with pytest.raises(WeightsError, match=r"'w'.*more numbers than a model may hold"):
        from_onnx(proto)
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([-4, -6])
    with pytest.raises(WeightsError, match="'w' has the shape"):
        from_onnx(proto)


def external(tmp_path: Path, **changes: Any) -> Path:
    """A file whose weights are in another, with the entries of the first tensor changed."""
    path = tmp_path / "folder" / "net.onnx"
    path.parent.mkdir()
    onnx.save(mlp(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    proto = onnx.load(str(path), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = str(changes.get(entry.key, entry.value))
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (path.parent / "weights.bin").unlink()
    with pytest.raises(WeightsError, match=r"tensor 'w'.*weights\.bin: no such file"):
        from_onnx(path)
    with pytest.raises(WeightsError, match="give the path of the ONNX file"):
        from_onnx(path.read_bytes())


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/passwd", "a/../../outside.bin", "link.bin", ""])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    path = external(tmp_path, location=location)
    (tmp_path / "outside.bin").write_bytes((path.parent / "weights.bin").read_bytes())
    (path.parent / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(WeightsError, match="outside the folder of the ONNX file"):
        from_onnx(path)


@pytest.mark.parametrize(
    "changes",
    [{"offset": 1 << 40}, {"offset": -8}, {"length": 1 << 40}, {"length": -1}, {"length": 3}, {"offset": "x"}],
)
def test_external_data_out_of_bounds_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="tensor 'w'"):
        from_onnx(external(tmp_path, **changes))


def test_external_data_that_is_no_file_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path, location="folder")
    (path.parent / "folder").mkdir()
    with pytest.raises(WeightsError, match="a folder, not external data"):
        from_onnx(path)


def test_an_import_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours would be told, not compiled."""
    monkeypatch.setattr(Relu, "reference", lambda self, inputs, tensors: inputs[0].abs())
    with pytest.raises(GraphError, match=r"output 'y' differs by .* from what ONNX's reference computes"):
        from_onnx(model_of([node("Relu", "x")]))


def test_large_networks_are_not_compared_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MAX_WORK", 10)
    assert import_onnx(mlp()).notes[-1] == "not compared with ONNX's reference: too large"


@pytest.mark.parametrize("given", [None, 5])
def test_what_is_no_model_at_all_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="is no ONNX model; give a path"):
        from_onnx(given)


@pytest.mark.parametrize("opset", [9, 13, 14, 17])
def test_batch_norm_is_by_its_statistics_in_every_opset(opset: int) -> None:
    """Up to opset 13 the reference takes those of the batch, and the network was refused as different from it."""
    import torch

    given = {"s": weights(3), "b": weights(3), "m": weights(3), "v": np.abs(weights(3)) + 1}
    made = import_onnx(model_of([node("BatchNormalization", "x s b m v")], (1, 3, 4, 5), given, opset=opset))
    assert "compared with ONNX's reference" in made.model.provenance["onnx"]
    x = weights(2, 3, 4, 5)
    (found,) = evaluate(made.model.graph, made.model.tensors, x)
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    expected = torch.nn.functional.batch_norm(
        torch.from_numpy(x), tensors["m"], tensors["v"], tensors["s"], tensors["b"], training=False
    )
    assert np.abs(found - expected.numpy()).max() < 1e-5
