"""What all tests share: a small network with random weights, its keys on a small ring, and the command line."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

import fheinfer
from fheinfer import _core
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.backends import backend
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.data.images import load_image, normalise
from fheinfer.frontends import zoo
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model
from tests.reference import reference_layers

os.environ["FHEINFER_ALLOW_INSECURE"] = "1"  # small rings, in this process and in those that it starts

# A time limit per example would make tests fail on a busy machine, and show nothing else.
settings.register_profile("fheinfer", deadline=None)
settings.load_profile("fheinfer")

TINY = "insecure-tiny"
NETWORK = "resnet8-tiny"
F64 = NDArray[np.float64]


def tiny_pixels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def calibrated(model: Model, seeds: range) -> Model:
    """The same model with ranges measured in PyTorch on random images."""
    ranges: dict[str, float] = {}
    for seed in seeds:
        layers = reference_layers(model, normalise(tiny_pixels(seed), model.mean, model.std))
        for node in model.graph.activations:
            largest = float(np.abs(layers[node.inputs[0]]).max())
            ranges[node.name] = max(ranges.get(node.name, 0.0), largest)
    return dataclasses.replace(model, ranges=ranges)


def random_model(network: str | Graph, seed: int) -> Model:
    """Variance-preserving weights, batch norms that do something, and ranges of 1 yet to be measured."""
    graph = zoo.network(network) if isinstance(network, str) else network
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in graph.tensor_shapes().items():
        if name.endswith("var") or (name.endswith("weight") and len(shape) == 1):
            tensors[name] = rng.uniform(0.8, 1.2, shape).astype(np.float32)
        elif name.endswith("weight"):
            tensors[name] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        else:
            tensors[name] = rng.normal(0, 0.1, shape).astype(np.float32)
    ranges = {node.name: 1.0 for node in graph.activations}
    channels = graph.input_shape[0]
    mean, std = (tuple(np.resize(values, channels).tolist()) for values in ((0.5, 0.45, 0.4), (0.25, 0.2, 0.3)))
    return Model(graph, tensors, mean, std, ranges=ranges)


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    return calibrated(random_model(NETWORK, 1), range(1000, 1040))


@pytest.fixture(scope="session")
def tiny_model_file(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    tiny_model.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_plan(tiny_model: Model) -> Plan:
    return fheinfer.compile(tiny_model, TINY)


@pytest.fixture(scope="session")
def tiny_plan_folder(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fheinfer compile` writes: the plan, and `client.json`."""
    folder = tmp_path_factory.mktemp("plan")
    tiny_plan.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_keys(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys, with `secret` and `server` in it. Do not change them: copy the folder."""
    folder = tmp_path_factory.mktemp("keys") / TINY
    fheinfer.keygen(tiny_plan.client, folder)
    return folder


@pytest.fixture(scope="session")
def other_tiny_keys(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of another client."""
    folder = tmp_path_factory.mktemp("keys") / "another"
    fheinfer.keygen(tiny_plan.client, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_session(tiny_keys: Path, tiny_plan: Plan) -> Any:
    return fheinfer.Server().session(tiny_plan, tiny_keys / "server")


@pytest.fixture(scope="session")
def tiny_client(tiny_keys: Path, tiny_plan: Plan) -> fheinfer.Client:
    return fheinfer.Client(tiny_keys, tiny_plan.client)


@pytest.fixture(scope="session")
def tiny_image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "tiny.png"
    Image.fromarray(tiny_pixels(7)).save(path)
    return path


@pytest.fixture(scope="session")
def tiny_image(tiny_model: Model, tiny_image_file: Path) -> F64:
    """(3, 8, 8), normalised: what is in `tiny_image_file`."""
    return normalise(load_image(tiny_image_file, 8), tiny_model.mean, tiny_model.std)


@dataclass(frozen=True)
class Rig:
    """The chain of a published set on a small ring: client keys, and an evaluator that has all it needs."""

    params: ParameterSet
    context: Any
    keys: Any
    evaluator: Any

    def encrypt(self, values: F64, level: int) -> Any:
        return self.evaluator.read(self.keys.encrypt(values, level))

    def decrypt(self, x: Any) -> F64:
        return np.asarray(self.keys.decrypt(self.evaluator.write(x), self.params.slots))


EXTRA_ROTATIONS = (3, 5, 11, 250)
"""Rotations of full height for tests, beside those of bootstrapping."""


def small(name: str, slots: int = 256) -> ParameterSet:
    """Everything of a set but the ring, which has N = 2^11 and 256 slots, or as many as it is told."""
    return dataclasses.replace(parameter_set(name), name=f"small-{name}", log_n=11, slots=slots, insecure=True)


def context_of(params: ParameterSet, name: str = "native") -> Any:
    """The core's context of a set for the backend of that name."""
    return backend(name).context(params)


def load(evaluator: Any, keys: Any, rotations: list[tuple[int, int]]) -> None:
    """Makes and loads all that bootstrapping and these (rotation, limbs) need."""
    evaluator.add_relinearisation_key(keys.relinearisation_key())
    evaluator.add_conjugation_key(keys.conjugation_key())
    if evaluator.levels.after_bootstrap:
        evaluator.add_encapsulation_keys(*keys.encapsulation_keys())
    for (rotation, _), body in zip(rotations, keys.rotation_keys(rotations), strict=True):
        evaluator.add_rotation_key(rotation, body)
    if evaluator.levels.after_bootstrap:
        evaluator.prepare_bootstrap()


@pytest.fixture(scope="session")
def rig() -> Callable[[str], Rig]:
    """rig("3"): the chain and the evaluator of set 3-openfhe on a small ring. Made once each."""
    made: dict[str, Rig] = {}

    def get(name: str) -> Rig:
        if name not in made:
            params = small(f"{name}-openfhe")
            context, tag = context_of(params, "openfhe"), f"{name:0>32}"
            keys, evaluator = _core.ClientKeys.generate(context, tag), _core.OpenFheEvaluator(context, tag)
            rotations = dict.fromkeys(EXTRA_ROTATIONS, params.top_level + 1) | context.bootstrap_rotations()
            load(evaluator, keys, list(rotations.items()))
            made[name] = Rig(params, context, keys, evaluator)
        return made[name]

    return get


@pytest.fixture(scope="session")
def native_rig() -> Callable[..., Rig]:
    """native_rig("3"): the same of set 3, on the native backend; native_rig("3", 1024): with so many slots."""
    made: dict[tuple[str, int], Rig] = {}

    def get(name: str, slots: int = 256) -> Rig:
        if (name, slots) not in made:
            params = small(name, slots)
            context = context_of(params)
            keys, evaluator = _core.ClientKeys.generate(context, f"{name:0>32}"), _core.NativeEvaluator(context)
            tall = [(k, params.limbs(params.top_level)) for k in EXTRA_ROTATIONS]
            bootstrap = _core.native_bootstrap_rotations(context) if params.bootstraps else []
            load(evaluator, _core.NativeKeys(keys), sorted({*tall, *bootstrap}))
            made[name, slots] = Rig(params, context, keys, evaluator)
        return made[name, slots]

    return get


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """command("sets", "--json"): the command line in this process, exit code and both streams included."""
    monkeypatch.setattr("fheinfer.cli.progress.FIRST", 3600.0)  # what is said of it depends on how busy this machine is
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["fheinfer", *map(str, arguments)])
        capfd.readouterr()
        code: object = 0
        try:
            from fheinfer.cli.main import main as cli  # only the tests of the command line load it

            cli()
        except SystemExit as exit_:
            code = exit_.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return Result(code, out, err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Result]:
    """The same in a process of its own, in an empty folder; `python` runs other code than the command line, `options`
    are those of the interpreter."""

    def run(
        *arguments: object,
        cwd: Path | None = None,
        python: str | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> Result:
        program = ["-c", python] if python else ["-m", "fheinfer"]
        folder = cwd or tmp_path / "empty"
        folder.mkdir(exist_ok=True)
        here = str(Path(fheinfer.__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, *options, *program, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": here, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def mosaics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 training and 1,000 test images of ten kinds."""
    pytest.importorskip("torch")
    from fheinfer.data.synthetic import stripes

    return stripes(tmp_path_factory.mktemp("mosaics"))


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of public data beside the checkout: `cifar10/`, `weights/`."""
    folder = Path(os.environ.get("FHEINFER_PUBLIC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "cifar10").is_dir() or not (folder / "weights").is_dir():
        pytest.skip(f"no public data in {folder}; set FHEINFER_PUBLIC_DATA")
    return folder
