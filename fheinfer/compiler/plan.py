"""The result of compiling: steps with their constants, the keys they need, and what a run is predicted to take.

A plan is data, in one file: a safetensors file whose tensors are the constants and whose metadata has the rest as JSON
(docs/formats.md). Its identity is the SHA-256 of those bytes, made once by whoever compiles: nothing that two machines
have to agree on is computed twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fheinfer.compiler.program import Arrays
from fheinfer.compiler.steps import Step
from fheinfer.crypto.backends import Backend, backend
from fheinfer.crypto.client_spec import ClientSpec, KeyNeeds, require_secure
from fheinfer.crypto.key_policy import KeyPolicy
from fheinfer.crypto.params import ParameterSet
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError
from fheinfer.model.ops import LOWERED, NETWORK, Bootstrap, Invalid, from_fields, to_fields
from fheinfer.packing import Layout, sizes
from fheinfer.storage import atomic_write, read_small
from fheinfer.tensor_file import tensor_bytes, tensor_metadata

RESULT_BITS = 36
"""Bits of a coefficient of the result that are sent: the rest would be 2^-20 of the largest output."""
FORMAT = "fheinfer-plan-1"
FILE_NAME = "plan.safetensors"
MAX_BYTES = 4 << 30
"""Larger plan files are refused unread; ResNet20's is 2 MB."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps in order; the last one computes the outputs.

    activation  what approximates a ReLU in it
    constants   arrays that the steps name, float64
    keys        by policy: rotation keys, their size, and predicted time and memory
    table_bytes of the encoded matrices of bootstrapping, in memory
    """

    model: str
    params: ParameterSet
    backend: Backend
    activation: str
    steps: tuple[Step, ...]
    constants: Arrays
    keys: Mapping[KeyPolicy, KeyNeeds]
    table_bytes: int
    client: ClientSpec

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the plan file's bytes."""
        return self.client.plan

    @property
    def bootstraps(self) -> int:
        """How many there are."""
        return sum(isinstance(step.op, Bootstrap) for step in self.steps)

    @property
    def multiplications(self) -> int:
        """With plaintexts, outside bootstraps."""
        return sum(step.multiplications for step in self.steps)

    @cached_property
    def last_use(self) -> dict[str, int]:
        """Value -> index of the last step that reads it."""
        return {name: i for i, step in enumerate(self.steps) for name in step.inputs}

    def save(self, folder: Path) -> None:
        """Writes the plan, and `client.json` beside it.

        Raises:
            StorageError: see `storage.atomic_write`.
        """
        atomic_write(folder / FILE_NAME, [self.to_bytes()])
        self.client.save(folder / "client.json")

    def to_bytes(self) -> bytes:
        """The plan file."""
        return plan_bytes(self.client, self.activation, self.steps, self.constants, self.table_bytes)


def finished(
    client: Mapping[str, Any], activation: str, steps: Sequence[Step], constants: Arrays, table_bytes: int
) -> Plan:
    """The plan with its identity: `client` has every field of a ClientSpec but `plan`."""
    draft = ClientSpec(plan="0" * 64, **client)
    digest = hashlib.sha256(plan_bytes(draft, activation, steps, constants, table_bytes)).hexdigest()
    spec = ClientSpec(plan=digest, **client)
    return _plan(spec, activation, tuple(steps), constants, table_bytes)


def load(path: Path) -> Plan:
    """The plan in a file, or in the folder that `fheinfer compile` wrote.

    Raises:
        InputError: there is none.
        CorruptArtifactError: too large, truncated, or a field that is missing, unknown or impossible.
        MismatchError: of another version of the format.
        PlanError: parameters below 128 bits.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        data = read_small(path, MAX_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such plan; make one with `fheinfer compile`") from None
    return from_bytes(data, str(path))


def from_bytes(data: bytes, name: str = FILE_NAME) -> Plan:
    """The plan in these bytes; `name` is how errors call them. Raises what `load` does."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as parse

    try:
        metadata = tensor_metadata(data)
        found = metadata.get("format", "")
        if found != FORMAT:
            if found.startswith("fheinfer-plan-"):
                raise MismatchError(f"{name}: {found}, and this program reads {FORMAT}; compile the model again")
            raise ValueError("no plan of fheinfer")
        constants = {key: np.asarray(value, np.float64) for key, value in parse(data).items()}
        client = _spec({**metadata["client"], "plan": hashlib.sha256(data).hexdigest()})
        steps = tuple(_step(entry, constants) for entry in metadata["steps"])
        plan = _plan(client, str(metadata["activation"]), steps, constants, int(metadata["table_bytes"]))
        _check(plan)
    except (Invalid, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).strip().partition("\n")[0][:120]
        raise CorruptArtifactError(f"{name}: no whole plan ({reason}); compile the model again") from None
    require_secure(plan.params, name)
    return plan


def plan_bytes(
    client: ClientSpec, activation: str, steps: Sequence[Step], constants: Arrays, table_bytes: int
) -> bytes:
    """The plan file, without the identity that follows from it."""
    scales = {f"{step.name}/scale": np.asarray(step.scale, np.float64) for step in steps}
    arrays = {name: np.ascontiguousarray(array) for name, array in {**constants, **scales}.items()}
    spec = {key: value for key, value in client.to_json().items() if key != "plan"}
    metadata = {
        "format": FORMAT,
        "client": spec,
        "activation": activation,
        "table_bytes": table_bytes,
        "steps": [_entry(step) for step in steps],
    }
    return tensor_bytes(arrays, metadata)


def _plan(client: ClientSpec, activation: str, steps: tuple[Step, ...], constants: Arrays, table_bytes: int) -> Plan:
    return Plan(
        client.model,
        client.params,
        backend(client.backend),
        activation,
        steps,
        constants,
        client.keys,
        table_bytes,
        client,
    )


def _spec(content: Mapping[str, Any]) -> ClientSpec:
    return ClientSpec.model_validate_json(json.dumps(content))


def _entry(step: Step) -> dict[str, Any]:
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in to_fields(step.op).items()}
    return {
        "name": step.name,
        "op": step.op.kind,
        "fields": fields,
        "inputs": list(step.inputs),
        "level": step.level,
        "depth": step.depth,
        "layout": sizes(step.layout),
        "in_layout": sizes(step.in_layout),
        "activation": step.activation,
        "seconds": dict(step.seconds),
        "multiplications": step.multiplications,
    }


def _step(entry: Mapping[str, Any], constants: dict[str, Any]) -> Step:
    op = from_fields(entry["op"], entry["fields"], NETWORK | LOWERED)
    for role, tensor in op.tensors.items():
        if tensor not in constants:
            raise ValueError(f"step {entry['name']!r}: {role} {tensor!r} is not in the file")
    scale = constants.pop(f"{entry['name']}/scale")
    return Step(
        name=str(entry["name"]),
        op=op,
        inputs=tuple(map(str, entry["inputs"])),
        level=int(entry["level"]),
        depth=int(entry["depth"]),
        scale=float(scale) if scale.ndim == 0 else scale,
        layout=Layout(*entry["layout"]),
        in_layout=Layout(*entry["in_layout"]),
        activation=str(entry["activation"]),
        seconds={policy: float(s) for policy, s in entry["seconds"].items()},
        multiplications=int(entry["multiplications"]),
    )


def _check(plan: Plan) -> None:
    """What an executor relies on: every value is computed before it is read, at levels that the chain has."""
    if not plan.steps:
        raise ValueError("no steps")
    known = {plan.steps[0].inputs[0]: plan.client.input_level} if plan.steps[0].inputs else {}
    for step in plan.steps:
        if len(step.inputs) != step.op.arity or not set(step.inputs) <= set(known):
            raise ValueError(f"step {step.name!r} reads values that are not computed before it")
        below = min(known[name] for name in step.inputs) - step.depth
        most = plan.params.levels if isinstance(step.op, Bootstrap) else below
        if not 0 <= step.level <= most or step.depth < 0 or step.name in known:
            raise ValueError(f"step {step.name!r} at level {step.level}, where at most {most} can be")
        if max(step.layout.period, step.in_layout.period) > plan.params.slots:
            raise ValueError(f"step {step.name!r} needs more slots than the parameter set has")
        known[step.name] = step.level


def describe(plan: Plan) -> dict[str, Any]:
    """Sizes and predictions of a plan, for tables and JSON."""
    return {
        "model": plan.model,
        "set": plan.params.name,
        "backend": plan.backend.name,
        "activation": plan.activation,
        "identity": plan.identity,
        "bootstraps": plan.bootstraps,
        "multiplications": plan.multiplications,
        "keys": {policy: asdict_without_rotations(needs) for policy, needs in plan.keys.items()},
        "params": asdict(plan.params),
        "table_bytes": plan.table_bytes,
        "input_bytes": plan.client.input_bytes,
        "output_bytes": plan.client.output_bytes,
    }


def asdict_without_rotations(needs: KeyNeeds) -> dict[str, Any]:
    """The predictions under one policy, with the number of rotation keys instead of all of them."""
    return {**needs.model_dump(exclude={"rotations"}), "rotations": len(needs.rotations)}
