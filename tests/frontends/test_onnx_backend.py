"""The ONNX project's own backend tests: what passes, what is refused, and that nothing is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from fheinfer.data import datasets
from fheinfer.data.images import normalise
from fheinfer.errors import GraphError
from fheinfer.frontends.comparing import evaluate
from fheinfer.frontends.onnx import from_onnx, import_onnx
from fheinfer.model.ops import BatchNorm, Concat, Conv2d, Linear, MaxPool, Permute

pytest.importorskip("torch")

from tests.frontends import onnx_table
from tests.frontends.onnx_cases import KINDS

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_passes_or_is_refused_with_one_line(kind: str) -> None:
    """An error of another kind than ours ends the test; an outcome that is wrong is listed."""
    found = onnx_table.outcomes(kind)
    assert not [(case.name, outcome.reason) for case, outcome in found if outcome.wrong]
    refused = [outcome.reason for _, outcome in found if not outcome.way]
    assert all(reason and "\n" not in reason and len(reason) < 500 for reason in refused)


def test_the_table_of_the_page_is_measured() -> None:
    if onnx_table.version() not in onnx_table.written():
        pytest.skip(f"the table is that of another onnx than {onnx_table.version()}")
    assert onnx_table.written() == onnx_table.table()


@pytest.mark.parametrize(
    ("name", "convolutions", "operation", "count", "final"),
    [
        ("resnet50", 53, BatchNorm, 53, "softmax"),
        ("inception_v2", 69, Concat, 10, "softmax"),
        ("densenet121", 121, Concat, 58, ""),
        ("shufflenet", 49, Permute, 16, "softmax"),
        ("squeezenet", 26, Concat, 8, "softmax"),
        pytest.param("vgg19", 16, Linear, 3, "softmax", marks=pytest.mark.slow),  # 575 MB of weights
    ],
)
def test_the_light_networks_are_imported(name: str, convolutions: int, operation: type, count: int, final: str) -> None:
    """Structure with constant weights: those of ImageNet's networks of the usual names."""
    imported = import_onnx(LIGHT / f"light_{name}.onnx")
    model = imported.model
    kinds = [type(node.op) for node in model.graph]
    assert (kinds.count(Conv2d), kinds.count(operation)) == (convolutions, count)
    assert (model.graph.input_shape, model.final) == ((3, 224, 224), final)
    assert model.graph.shapes[model.graph.output.name] == (1000,)
    assert MaxPool in kinds


@pytest.mark.parametrize("name", ["bvlc_alexnet", "inception_v1", "zfnet512"])
def test_the_light_networks_with_local_response_normalisation_are_refused(name: str) -> None:
    with pytest.raises(GraphError, match=r"LRN 'n\d+': normalises by statistics of its input"):
        from_onnx(LIGHT / f"light_{name}.onnx")


@pytest.mark.parametrize(("layers", "right"), [(20, 90), pytest.param(32, 94, marks=pytest.mark.slow)])
def test_networks_of_another_compiler_classify_as_in_clear(layers: int, right: int, public_data: Path) -> None:
    """ACE's ResNets on the first 300 test images: 90 % and 94 %, as is known of them."""
    path = public_data / "models" / f"ace_resnet{layers}_cifar10.onnx"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    model = from_onnx(path, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    test = datasets.load(public_data / "cifar10", "test").first(300)
    x = np.stack([normalise(image, model.mean, model.std) for image in test.inputs])
    (logits,) = evaluate(model.graph, model.tensors, x, np.float32)
    assert round(100 * float(np.mean(np.equal(logits.argmax(1), test.labels)))) == right
