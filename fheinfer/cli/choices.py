"""From options to what they name: parameter set, model, plan and keys. Imports little: see each function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fheinfer.cli.options import refuse
from fheinfer.errors import UsageError

if TYPE_CHECKING:
    from fheinfer.compiler.wanted import Wanted
    from fheinfer.crypto.client_spec import ClientSpec
    from fheinfer.crypto.params import ParameterSet
    from fheinfer.model.model import Model

KEYS = Path("keys")
RUNS = Path("runs")


def parameters(set_name: str | None, backend: str | None = None) -> ParameterSet:
    """The set of that name, by default 1, for a backend: OpenFHE has sets of its own.

    Raises:
        UsageError, UnknownSetError: no such set or backend, or an activation in the name.
    """
    from fheinfer.crypto.backends import backend as find
    from fheinfer.crypto.params import parameter_set

    name = "1" if set_name is None else set_name
    base, mark, activation = name.partition("+")
    if mark:
        raise UsageError(f"--set {name}: an activation is no part of a set; say --set {base} --act {activation}")
    if backend is not None:
        find(backend)
    suffix = "-openfhe" if backend == "openfhe" and not name.endswith("-openfhe") else ""
    return parameter_set(name + suffix)


def set_of(set_name: str | None, model: Path | None, backend: str | None = None) -> ParameterSet | Literal["auto"]:
    """The set of that name; where none was named, the one that runs a named model fastest ("auto"), or set 1.

    Raises:
        UsageError, UnknownSetError: see `parameters`.
    """
    named = set_name is not None or model is None or backend not in (None, "native")
    return parameters(set_name, backend) if named and set_name != "auto" else "auto"


def require_backend(name: str, *others: str) -> None:
    """Refuses a name that is neither that of a backend nor among `others`, which a command takes as well.

    Raises:
        UsageError: with the names there are.
    """
    from fheinfer.crypto.backends import BACKENDS

    names = [*BACKENDS, *others]
    if name not in names:
        raise UsageError(f"no backend {name!r}; there are {', '.join(names)}")


def model_file(model: Path | None, params: ParameterSet | Literal["auto"]) -> Path:
    """The model that was named, or the one that comes with the set.

    Raises:
        UsageError: a set is to be chosen, and no model was named.
        WeightsError: this copy of fheinfer came without it.
    """
    if model is not None:
        return model
    if isinstance(params, str):
        raise UsageError("--set auto chooses a set for a model; name it with --model")
    from fheinfer.compiler.presets import preset
    from fheinfer.data.resources import default_model

    return default_model(preset(params).network)


def require_relus(model: Model, activation: str | None) -> None:
    """Refuses an activation for a network that it could not change.

    Raises:
        UsageError: an activation was chosen for a network without anything that it could approximate.
    """
    if activation is not None and not model.graph.has_relus:
        raise UsageError(f"--act chooses what approximates a ReLU, and {model.name} has none; leave it out")


def wanted(params: ParameterSet | Literal["auto"], **limits: Any) -> Wanted:
    """What a set that is chosen has to keep to, by options.

    Args:
        params: the set that was named, or "auto".
        limits: options by name, None where they were not given.

    Raises:
        UsageError: some are given for a set that is named, or a value that no set has.
    """
    from fheinfer.compiler.wanted import Wanted

    if not isinstance(params, str):
        given = {name: None if value is None else str(value) for name, value in limits.items()}
        refuse("a named set takes what it takes; --set auto keeps to it", **given)
    slots = limits.pop("slots", None)
    return Wanted(log_n=limits.pop("ring", None), log_slots=slots and slots.bit_length() - 1, **limits)


def plan_folder(
    plan: Path | None,
    set_name: str | None = None,
    model: Path | None = None,
    activation: str | None = None,
    backend: str | None = None,
    margin: float | None = None,
    bits: float | None = None,
    limits: Mapping[str, Any] | None = None,
) -> Path:
    """The plan that was named, or the one of the model and set that were; compiled now if that was never done here.

    Args:
        limits: as of `wanted`.

    Raises:
        UsageError: a plan and something that is part of it; or what `parameters` and `require_relus` raise.
        FheinferError: whatever reading and compiling the model raise.
    """
    if plan is not None:
        named = {"set": set_name, "model": model, "act": activation, "backend": backend, "margin": margin}
        refuse("it is part of the plan", **named, bits=bits, **(limits or {}))
        return plan
    from fheinfer.compiler.plan_cache import compiled

    params = set_of(set_name, model, backend)
    keeps = wanted(params, **(limits or {}))
    file = model_file(model, params)
    if activation is not None:
        from fheinfer.model.model import load

        require_relus(load(file), activation)
    return compiled(file, params, activation=activation, bits=bits, backend=backend, margin=margin, wanted=keeps)


def spec_of(plan: Path) -> ClientSpec:
    """What a client knows of a plan, by its folder or its file.

    Raises:
        InputError, ArtifactError, PlanError: see `ClientSpec.load` and `compiler.plan.load`.
    """
    from fheinfer.crypto.client_spec import ClientSpec

    if plan.is_dir():
        return ClientSpec.load(plan)
    from fheinfer.compiler.plan import load

    return load(plan).client


def keys_folder(keys: Path | None, set_name: str | None) -> Path:
    """The folder of keys that was named, or the usual one of a set (1 where none was named)."""
    return KEYS / f"set{parameters(set_name).name}" if keys is None else keys


def client_and_keys(client: Path | None, keys: Path | None, set_name: str | None) -> tuple[ClientSpec, Path]:
    """The client.json and the keys for encryption and decryption: each says where the other is by default.

    Raises:
        UsageError: a set that would change nothing.
        KeyStoreError: no keys there.
        InputError, ArtifactError, PlanError: see `ClientSpec.load`.
    """
    from fheinfer.crypto.client_spec import FILE_NAME, ClientSpec
    from fheinfer.crypto.key_writer import SERVER_FOLDER
    from fheinfer.crypto.manifest import FILE_NAME as MANIFEST
    from fheinfer.crypto.manifest import Manifest

    if keys is not None or client is not None:
        refuse("--keys and --client say which", set=set_name)
    if client is not None:
        spec = ClientSpec.load(client)
        return spec, keys_folder(keys, spec.params.name)
    folder = keys_folder(keys, set_name)
    if not (folder / FILE_NAME).exists():
        Manifest.load(folder / SERVER_FOLDER / MANIFEST)  # raises where there are no keys at all
    return ClientSpec.load(folder / FILE_NAME), folder
