"""Networks with several outputs, with images as outputs, and with quantities: no command drops or misnames one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fheinfer
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model
from fheinfer.model.ops import Power, Resample
from tests.conftest import Result, random_model
from tests.train.conftest import one_thread

__all__ = ["one_thread"]
Command = Callable[..., Result]
SET = "insecure-tiny-turbo"
SHAPE = (1, 4, 4)
X = np.random.default_rng(0).uniform(
    0, 1, (5, *SHAPE)
)  # two pairs, the second of which finds constants kept, and one more


def network(outputs: tuple[str, ...]) -> Graph:
    """Of scores of two classes, one quantity, and an image of twice the size, what is asked for."""
    g = GraphBuilder("heads", SHAPE)
    x = g.add("square", Power(2), g.conv2d("conv", "input", 2, 3, bias=True))
    if "kind" in outputs:
        g.linear("kind", x, 2)
    if "price" in outputs:
        g.linear("price", x, 1)
    if "mask" in outputs:
        g.add("mask", Resample((8, 8), "rows", "columns"), g.conv2d("last", x, 1, 1, bias=True))
    return g.build(*outputs)


class Network:
    """A model of these outputs with its plan, and keys where they are asked for."""

    def __init__(self, folder: Path, *outputs: str, final: str = "", classes: tuple[str, ...] = ()) -> None:
        graph, random = network(outputs), np.random.default_rng(1)
        twice = np.repeat(np.eye(4), 2, 0)
        tensors = {
            n: (twice if n in ("rows", "columns") else random.normal(0, 0.5, s)).astype(np.float32)
            for n, s in graph.tensor_shapes().items()
        }
        self.model = Model(graph, tensors, (0.0,), (1.0,), classes, ranges={"square": 10.0, "input": 1.0}, final=final)
        self.file, self.plan, self.keys = folder / "net.safetensors", folder / "plan", folder / "keys"
        self.model.save(self.file)
        plan = fheinfer.compile(self.model, SET)
        plan.save(self.plan)
        fheinfer.keygen(plan.client, self.keys)
        np.save(folder / "one.npy", X[0])
        np.save(folder / "many.npy", X)
        self.options = ["--plan", self.plan, "--keys", self.keys, "--plain", "--model", self.file]

    def clear(self, x: np.ndarray) -> dict[str, np.ndarray]:
        found = fheinfer.plain_outputs(self.model, x)
        return found if isinstance(found, dict) else {self.model.graph.output.name: found}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(tmp_path_factory.mktemp("several"), "kind", "price", "mask")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(tmp_path_factory.mktemp("image"), "mask")


def test_many_inputs_have_all_outputs_in_tables_csv_json_and_arrays(
    command: Command, several: Network, tmp_path: Path
) -> None:
    many, values = several.file.with_name("many.npy"), tmp_path / "values.npz"
    arguments = ["infer", *several.options, "--input", many]
    done = command(*arguments, "--csv", tmp_path / "out.csv", "-o", values)
    assert done.code == 0, done.err
    assert all(title in done.out for title in ("classes of kind", "values of price", "values of mask"))
    assert done.out.count("probability") == 1
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    arrays, clear = np.load(values), [several.clear(x) for x in X]
    assert list(arrays) == ["kind", "price", "mask"]
    for name, kind in (("kind", "logit"), ("price", "value"), ("mask", "value")):
        wanted = np.stack([each[name] for each in clear])
        assert np.allclose(arrays[name], wanted, atol=0.01 * np.abs(wanted).max())
        columns = [f"{name}.{kind}_{i}" for i in range(wanted[0].size)]
        assert np.allclose([[float(row[c]) for c in columns] for row in rows], wanted.reshape(5, -1), atol=0.1)
    assert [int(row["kind.class"]) for row in rows] == [int(each["kind"].argmax()) for each in clear]
    assert not [column for column in rows[0] if column in ("mask.class", "price.probability", "class")]
    found = json.loads(command(*arguments, "--json").out)["images"][2]["outputs"]
    assert found["kind"]["plain_class"] == found["kind"]["class"]
    assert np.shape(found["mask"]["values"]) == (1, 8, 8)


def test_an_image_is_written_and_has_no_class(command: Command, image: Network, tmp_path: Path) -> None:
    one, clear = image.file.with_name("one.npy"), image.clear(X[0])["mask"]
    for extra in ([], ["--backend", "slots"]):
        arguments = ["infer", "--input", one, "--plan", image.plan, "--plain", "--model", image.file, *extra]
        done = command(*arguments, *([] if extra else ["--keys", image.keys]), "-o", tmp_path / "out.npy")
        assert done.code == 0, done.err
        assert "mask: 1x8x8 values from" in done.out
        assert "against PyTorch the worst value keeps" in done.out
        assert not [word for word in ("class", "probability", "logit") if word in done.out]
        assert np.allclose(np.load(tmp_path / "out.npy"), clear, atol=0.01 * np.abs(clear).max())


def test_many_inputs_go_one_by_one_where_a_plan_takes_no_two(command: Command, tmp_path: Path) -> None:
    """An output of a product: the set would take two inputs in a ciphertext, and the plan does not."""
    square = Network(tmp_path, "square")
    many, values = tmp_path / "many.npy", tmp_path / "out.npz"
    done = command("infer", *square.options, "--input", many, "-o", values)
    assert done.code == 0, done.err
    assert np.allclose(np.load(values)["square"], [square.clear(x)["square"] for x in X], atol=0.02)


def test_decrypt_writes_what_it_shows(command: Command, image: Network, several: Network, tmp_path: Path) -> None:
    for network, file, decimals in ((image, "out.npy", 6), (several, "out.npz", 3)):
        folder = network.file.parent
        keys, server = ["--keys", network.keys, "--client", network.plan], ["--keys", network.keys / "server"]
        sent, result = folder / "in.ct", folder / "result.ct"
        assert command("encrypt", *keys, "--input", folder / "one.npy", "-o", sent).code == 0
        assert command("evaluate", "--plan", network.plan, *server, "-i", sent, "-o", result).code == 0
        given = [] if decimals == 6 else ["--decimals", decimals]
        arguments = ["decrypt", *keys, "--request", sent, result, "-o", tmp_path / file, "--json", *given]
        done = command(*arguments)
        assert done.code == 0, done.err
        found, written = json.loads(done.out), np.load(tmp_path / file)
        assert found["decimals"] == decimals
        if network is image:
            assert found["values"] == written.tolist()
        else:
            assert found["outputs"]["mask"]["values"] == written["mask"].tolist()
            assert found["outputs"]["kind"]["logits"] == written["kind"].tolist()


def test_one_probability_tells_a_class(command: Command, tmp_path: Path) -> None:
    """At one half, in every command; names of the data decide which of its two classes the probability is of."""
    network = Network(tmp_path, "price", final="sigmoid", classes=("cat",))
    known = [int(network.clear(x)["price"][0] > 0.5) for x in X]
    assert 0 < sum(known) < len(X)
    cats = ["cat" if it_is else "dog" for it_is in known]
    np.savez(tmp_path / "data.npz", x=X, y=[int(name == "dog") for name in cats], classes=["cat", "dog"])
    np.savez(tmp_path / "numbers.npz", x=X, y=known)
    options = ["accuracy", "--model", network.file, "--csv", tmp_path / "out.csv", "--json"]
    for mode, data in ((MODES[0], "numbers.npz"), (MODES[1], "data.npz"), (MODES[4], "data.npz")):
        keys = ["--keys", network.keys] if "encrypted" in mode else []
        done = command(*options, *mode, *keys, "--data", tmp_path / data)
        assert done.code == 0, done.err
        found, rows = json.loads(done.out), list(csv.DictReader((tmp_path / "out.csv").open()))
        assert found["top"] == {"1": 1.0}
        assert found["same_class_as_clear"] == (len(X) if "encrypted" in mode else None)
        assert [int(row["class"]) for row in rows] == [int(row["label"]) for row in rows] == known
    done = command("infer", *network.options, "--input", tmp_path / "many.npy", "--json")
    for row, name in zip(json.loads(done.out)["images"], cats, strict=True):
        assert row["class"] == row["plain_class"] == {"cat": "cat", "dog": "not cat"}[name]
        assert row["probability"] >= 0.5
    compared = ["--plan", network.plan, "--plain", "--model", network.file, "--backend", "slots"]
    for name, says in (("cat", "class: cat"), ("dog", "class: not cat")):
        np.save(tmp_path / "one.npy", X[cats.index(name)])
        shown = command("infer", *compared, "--input", tmp_path / "one.npy").out
        assert says in shown
        assert "the same class" in shown


@pytest.mark.parametrize("file, says", [("x.npy", "there are kind, price, mask; name a .npz"), ("x.txt", "to a .npy")])
def test_values_that_fit_no_file_are_refused_before_the_run(
    command: Command, several: Network, tmp_path: Path, file: str, says: str
) -> None:
    one = several.file.with_name("one.npy")
    done = command("infer", *several.options, "--input", one, "-o", tmp_path / file)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert not list(tmp_path.iterdir())


MODES = (
    ["--mode", "clear"],
    ["--mode", "approx"],
    ["--mode", "approx", "--set", SET],
    ["--mode", "simulate", "--set", SET],
    ["--mode", "encrypted", "--set", SET],
)


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_bits_of_every_output_are_measured_without_labels(
    command: Command, several: Network, mode: list[str], in_clear: list[int], tmp_path: Path
) -> None:
    options = ["--model", several.file, "--data", several.file.with_name("many.npy"), "--csv", tmp_path / "out.csv"]
    keys = ["--keys", several.keys] if "encrypted" in mode else []
    done = command("accuracy", *mode, *options, *keys, "--json")
    assert done.code == 0, done.err
    found, rows = json.loads(done.out), list(csv.DictReader((tmp_path / "out.csv").open()))
    assert (found["images"], found["top"], found["overflows"]) == (5, {}, [])
    assert sum(in_clear) == 5  # once
    assert ("clear" in mode) == (found["pytorch_bits"] == {})
    assert "clear" in mode or list(found["pytorch_bits"]) == ["kind", "price", "mask"]
    # One price is 0.04, and its bits are of that alone.
    assert all(6 < bits["minimum"] <= bits["median"] for bits in found["pytorch_bits"].values()), found["pytorch_bits"]
    assert (found["bits"] is None) == (mode[1] in ("clear", "approx"))
    assert [int(row["kind.class"]) for row in rows] == [int(several.clear(x)["kind"].argmax()) for x in X]
    assert "label" not in rows[0]
    clear = [several.clear(x)["mask"][0, 7, 7] for x in X]
    assert np.allclose([float(row["mask.value_63"]) for row in rows], clear, atol=0.02)


def test_labels_are_of_an_output_that_is_named(command: Command, several: Network, tmp_path: Path) -> None:
    classes = [int(several.clear(x)["kind"].argmax()) for x in X]
    np.savez(tmp_path / "data.npz", x=X, y=classes)
    options = ["--model", several.file, "--data", tmp_path / "data.npz", "--json"]
    done = command("accuracy", *options)
    assert done.code == 2
    assert "the outputs are kind, price, mask; name the one that the labels are of by --output" in done.err
    done = command("accuracy", *options, "--output", "nothing")
    assert "--output 'nothing': heads has kind, price, mask" in done.err
    for mode in MODES[1:4]:
        found = json.loads(command("accuracy", *mode, *options, "--output", "kind").out)
        assert found["top"] == {"1": 1.0}
        assert list(found["pytorch_bits"]) == ["kind"]
    assert json.loads(command("accuracy", *options, "--output", "mask").out)["top"] == {}


def test_an_image_has_bits_and_ranges_and_no_accuracy(command: Command, image: Network, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=20 * X, y=np.arange(5))
    options = ["accuracy", "--model", image.file, "--data", tmp_path / "data.npz"]
    done = command(*options, "--mode", "simulate", "--set", SET)
    assert done.code == 0, done.err
    assert "worst value of output mask against PyTorch:" in done.out
    assert "top 1" not in done.out
    assert "no accuracy: the data has no labels, or the network no single output of classes" in done.err
    assert "warning: square leaves its range on 5 examples" in done.err
    done = command(*options, "--top-k", "1")
    assert (done.code, "--top-k changes nothing here" in done.err) == (2, True)
    quantity = tmp_path / "quantity.safetensors"
    random_model(network(("price",)), 1).save(quantity)
    for file in (image.file, quantity):
        arguments = ["--model", file, "--data", tmp_path / "data.npz"]
        done = command("search", "--over", "margin", "--set", SET, *arguments)
        assert (done.code, "heads has no single output of them" in done.err) == (2, True)
