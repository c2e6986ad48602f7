"""The result of compiling: steps with their constants, the keys they need, and what a run is predicted to take.

A plan is data, in one file: a safetensors file whose tensors are the constants and whose metadata has the rest as JSON
(docs/reference/formats.md). Its identity is the SHA-256 of those bytes, made once by whoever compiles: nothing that two
machines have to agree on is computed twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fheinfer.compiler import why
from fheinfer.compiler.maps import LAYERS
from fheinfer.compiler.steps import BOOTSTRAPPED, RUNNABLE, Step
from fheinfer.compiler.summary import grouped, summary
from fheinfer.compiler.values import Arrays
from fheinfer.compiler.why import Reason
from fheinfer.crypto.backends import Backend, backend
from fheinfer.crypto.client_layers import ClientLayers, companion
from fheinfer.crypto.client_spec import FILE_NAME as CLIENT_FILE
from fheinfer.crypto.client_spec import ClientSpec, KeyNeeds, require_secure
from fheinfer.crypto.client_tensors import ClientPart
from fheinfer.crypto.key_policy import KeyPolicy
from fheinfer.crypto.params import ParameterSet
from fheinfer.errors import CorruptArtifactError, InputError, MismatchError
from fheinfer.model.model import Model
from fheinfer.model.ops import Bootstrap, Chebyshev, from_fields, to_fields
from fheinfer.packing import Packing
from fheinfer.storage import atomic_write, make_folder, read_small
from fheinfer.tensor_file import tensor_bytes, tensor_metadata

RESULT_BITS = 36
"""Bits of a coefficient of the result that are sent: the rest would be 2^-20 of the largest output."""
BASE_MEMORY = 64 * 2**20
"""Bytes of a server without plans and keys: interpreter and libraries."""
RING_MEMORY = 400 * 2**20
"""Bytes of a context and of what an evaluation holds at N = 2^16; less on smaller rings, in proportion."""
FORMAT = "fheinfer-plan-2"
FILE_NAME = "plan.safetensors"
_DAMAGED = (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)
MAX_BYTES = 4 << 30
"""Larger plan files are refused unread; ResNet20's is 2 MB."""


def base_memory(params: ParameterSet) -> int:
    """Bytes of a server with the context of a set, but without any keys."""
    return BASE_MEMORY + (RING_MEMORY >> (16 - params.log_n) if params.log_n <= 16 else 2 * RING_MEMORY)


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps in order; the last one computes the outputs.

    activation  what approximates a ReLU in it; "" for a network without any
    constants   arrays that the steps name, float64
    keys        by policy: rotation keys, their size, and predicted time and memory
    table_bytes of the encoded matrices of bootstrapping, in memory
    compiled_of identity of the model that was compiled; "" in a file from before this was written
    why         each choice of `set="auto"` with its reason; no part of the plan's identity
    bits        that encryption is expected to leave of the worst output; as `why`, known where the plan was compiled
    kept        that polynomials are expected to leave of PyTorch's outputs, infinite where they are exact; as `bits`
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
    compiled_of: str = ""
    why: tuple[Reason, ...] = ()
    bits: float | None = None
    kept: float | None = None

    def __str__(self) -> str:
        """What a run will take, in a few lines."""
        return summary(
            self.client,
            activation=": ".join(filter(None, (self.activation, grouped(self.degrees)))),
            steps=len(self.steps),
            bootstraps=self.bootstraps,
            multiplications=self.multiplications,
            widest=max(self.value_ciphertexts.values()),
            bits=self.bits,
            kept=self.kept,
        )

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the plan file's bytes."""
        return self.client.plan

    @property
    def bootstraps(self) -> int:
        """How many there are: one for each ciphertext."""
        return sum(step.packing.ciphertexts for step in self.steps if isinstance(step.op, Bootstrap))

    @property
    def multiplications(self) -> int:
        """With plaintexts, outside bootstraps."""
        return sum(step.multiplications for step in self.steps)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The values that are returned, by name, in the order of a result."""
        return tuple(output.name for output in self.client.outputs)

    @property
    def degrees(self) -> dict[str, tuple[int, ...]]:
        """Activation -> degrees of its polynomials in order, of the series and quadratics that the steps evaluate."""
        found: dict[str, list[int]] = {}
        for step in self.steps:
            if step.activation and isinstance(step.op, Chebyshev):
                found.setdefault(step.activation, []).append(len(self.constants[step.op.coefficients]) - 1)
            elif step.activation and isinstance(step.op, BOOTSTRAPPED):
                found.setdefault(step.activation, []).append(2)
        return {name: tuple(degrees) for name, degrees in found.items()}

    @cached_property
    def last_use(self) -> dict[str, int]:
        """Value -> index of the last step that reads it; of an output, the number of steps."""
        reads = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        return reads | dict.fromkeys(self.outputs, len(self.steps))

    @cached_property
    def value_levels(self) -> dict[str, int]:
        """Value -> its level; the input among them."""
        return {self.steps[0].inputs[0]: self.client.input.level} | {step.name: step.level for step in self.steps}

    @cached_property
    def value_ciphertexts(self) -> dict[str, int]:
        """Value -> how many ciphertexts it is in; the input among them."""
        return {self.steps[0].inputs[0]: self.client.input.ciphertexts} | {
            step.name: step.packing.ciphertexts for step in self.steps
        }

    def alive(self, index: int) -> tuple[str, ...]:
        """The values that are still to be read after that step."""
        computed = [self.steps[0].inputs[0], *(step.name for step in self.steps[: index + 1])]
        return tuple(name for name in computed if self.last_use.get(name, 0) > index)

    @cached_property
    def takes_two_inputs(self) -> bool:
        """Whether one evaluation serves two inputs: no bootstraps, and outputs of linear layers that no step reads.

        Nor a Chebyshev series: real and imaginary part come out of it at twice their scale, which every power squares,
        so that a long one overflows.
        """
        last = [step for step in self.steps if step.name in self.outputs]
        linear = all(isinstance(step.op, LAYERS) for step in last) and not self._inner_outputs
        linear = linear and not any(isinstance(step.op, Chebyshev) for step in self.steps)
        return linear and self.backend.two_inputs(self.params)

    @property
    def _inner_outputs(self) -> set[str]:
        return {name for step in self.steps for name in step.inputs} & set(self.outputs)

    def save(self, folder: Path | str) -> None:
        """Writes the plan, and `client.json` beside it, with the layers of the client of a split model, and the reasons
        of its set where "auto" chose it.

        Args:
            folder: made where it is not there.

        Raises:
            StorageError: see `storage.atomic_write`.
        """
        folder = Path(folder)
        make_folder(folder)
        atomic_write(folder / FILE_NAME, [self.to_bytes()])
        self.client.save(folder / CLIENT_FILE)
        if self.why:
            why.save(folder, self.identity, self.why)

    def to_bytes(self) -> bytes:
        """The plan file."""
        return plan_bytes(self.client, self.activation, self.steps, self.constants, self.table_bytes, self.compiled_of)


def finished(
    client: Mapping[str, Any],
    activation: str,
    steps: Sequence[Step],
    constants: Arrays,
    table_bytes: int,
    compiled_of: str,
) -> Plan:
    """The plan with its identity: `client` has every field of a ClientSpec but `plan`."""
    draft = ClientSpec(plan="0" * 64, **client)
    digest = hashlib.sha256(plan_bytes(draft, activation, steps, constants, table_bytes, compiled_of)).hexdigest()
    spec = ClientSpec(plan=digest, **client)
    return _plan(spec, activation, tuple(steps), constants, table_bytes, compiled_of)


def behind(plan: Plan, part: ClientPart, layers: ClientLayers, model: Model) -> Plan:
    """The plan of the rest of a network whose first layers the client computes: another plan, for its client.json.

    Args:
        model: the whole network, which says how its inputs are normalised.
    """
    plan = replace(plan, compiled_of=model.identity)
    made = _with_client(plan, before=part, mean=model.mean, std=model.std)
    return replace(made, client=made.client.with_layers(layers))


def limited_to(plan: Plan, policies: Collection[KeyPolicy]) -> Plan:
    """The plan for these kinds of rotation keys alone: another plan, which has no others."""
    return _with_client(plan, keys={policy: plan.keys[policy] for policy in policies})


def _with_client(plan: Plan, **changed: Any) -> Plan:
    kept = {name: getattr(plan.client, name) for name in type(plan.client).model_fields if name != "plan"}
    made = finished(kept | changed, plan.activation, plan.steps, plan.constants, plan.table_bytes, plan.compiled_of)
    return replace(made, why=plan.why, bits=plan.bits, kept=plan.kept)


def load(path: Path | str) -> Plan:
    """The plan in a file, or in the folder that `fheinfer compile` wrote.

    Raises:
        InputError: there is none.
        CorruptArtifactError: too large, truncated, or a field that is missing, unknown or impossible.
        MismatchError: of another version of the format.
        PlanError: parameters below 128 bits.
    """
    path = Path(path)
    path = path / FILE_NAME if os.path.isdir(path) else path  # noqa: PTH112 - takes any string for a name
    try:
        data = read_small(path, MAX_BYTES, "a plan")
    except FileNotFoundError:
        raise InputError(f"{path}: no such plan; make one with `fheinfer compile`") from None
    plan, layers = from_bytes(data, str(path)), companion(path.with_name(CLIENT_FILE))
    plan = replace(plan, why=why.load(path.parent, plan.identity))
    if plan.client.before is None or not layers.exists():  # a server needs none of the client's layers
        return plan
    return replace(plan, client=plan.client.with_layers(ClientLayers.load(layers)))


def from_bytes(data: bytes, name: str = FILE_NAME) -> Plan:
    """The plan in these bytes; `name` is how errors call them. Raises what `load` does."""
    try:
        metadata = tensor_metadata(data)
        found = metadata.get("format", "")
        if found != FORMAT:
            if found.startswith("fheinfer-plan-"):
                raise MismatchError(f"{name}: {found}, and this program reads {FORMAT}; compile the model again")
            raise ValueError("no plan of fheinfer")
        constants = {key: np.asarray(value, np.float64) for key, value in _parsed(data).items()}
        client = _spec({**metadata["client"], "plan": hashlib.sha256(data).hexdigest()})
        steps = _steps(metadata, constants, client)
        compiled_of = str(metadata.get("compiled_of", ""))
        plan = _plan(client, str(metadata["activation"]), steps, constants, int(metadata["table_bytes"]), compiled_of)
        _check(plan)
    except _DAMAGED as error:
        reason = str(error).strip().partition("\n")[0][:120]
        raise CorruptArtifactError(f"{name}: no whole plan ({reason}); compile the model again") from None
    require_secure(plan.params, name)
    return plan


def _parsed(data: bytes) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as parse

    try:
        return dict(parse(data))
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def plan_bytes(
    client: ClientSpec,
    activation: str,
    steps: Sequence[Step],
    constants: Arrays,
    table_bytes: int,
    compiled_of: str,
) -> bytes:
    """The plan file, without the identity that follows from it."""
    scales = {f"{step.name}/scale": np.asarray(step.scale, np.float64) for step in steps}
    arrays = {**constants, **scales}
    spec = {key: value for key, value in client.to_json().items() if key != "plan"}
    packings: dict[Packing, int] = {}
    metadata = {
        "format": FORMAT,
        "client": spec,
        "activation": activation,
        "table_bytes": table_bytes,
        "steps": [_entry(step, packings) for step in steps],
        "packings": [packing.to_json() for packing in packings],
        **({"compiled_of": compiled_of} if compiled_of else {}),
    }
    return tensor_bytes(arrays, metadata)


def _plan(
    client: ClientSpec,
    activation: str,
    steps: tuple[Step, ...],
    constants: Arrays,
    table_bytes: int,
    compiled_of: str,
) -> Plan:
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
        compiled_of,
    )


def _spec(content: Mapping[str, Any]) -> ClientSpec:
    return ClientSpec.model_validate_json(json.dumps(content))


def _entry(step: Step, packings: dict[Packing, int]) -> dict[str, Any]:
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in to_fields(step.op).items()}
    return {
        "name": step.name,
        "op": step.op.kind,
        "fields": fields,
        "inputs": list(step.inputs),
        "level": step.level,
        "depth": step.depth,
        "packing": packings.setdefault(step.packing, len(packings)),
        "activation": step.activation,
        "seconds": dict(step.seconds),
        "multiplications": step.multiplications,
    }


def _steps(metadata: Mapping[str, Any], constants: dict[str, Any], client: ClientSpec) -> tuple[Step, ...]:
    if not metadata["steps"] or not metadata["steps"][0]["inputs"]:
        raise ValueError("no steps, or none that reads the input")
    packings = [Packing.from_json(content, client.params.slots) for content in metadata["packings"]]
    known = {str(metadata["steps"][0]["inputs"][0]): client.input.packing}
    steps: list[Step] = []
    for entry in metadata["steps"]:
        index = entry["packing"]
        if type(index) is not int or not 0 <= index < len(packings):
            raise ValueError(f"step {entry['name']!r} has no packing")
        sources = tuple(known[name] for name in entry["inputs"])
        steps.append(_step(entry, constants, packings[index], sources))
        known[steps[-1].name] = packings[index]
    return tuple(steps)


def _step(
    entry: Mapping[str, Any], constants: dict[str, Any], packing: Packing, in_packings: tuple[Packing, ...]
) -> Step:
    op = from_fields(entry["op"], entry["fields"], RUNNABLE)
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
        packing=packing,
        in_packings=in_packings,
        activation=str(entry["activation"]),
        seconds={policy: float(s) for policy, s in entry["seconds"].items()},
        multiplications=int(entry["multiplications"]),
    )


def _check_arrays(step: Step, constants: Arrays) -> None:
    """That the arrays of a step have the shapes that its operation reads, and finite numbers."""
    op, shapes = step.op, [packing.shape for packing in step.in_packings]
    op.check(shapes)
    if op.infer(shapes) != step.shape:
        raise ValueError(f"step {step.name!r} has a packing of another shape than its output")
    expected = op.tensor_shapes(shapes)
    for role, name in op.tensors.items():
        array = constants[name]
        fits = array.shape == expected[role] if role in expected else array.ndim == 1 and array.size > 0
        if not fits or not np.isfinite(array).all():
            raise ValueError(f"step {step.name!r}: {role} {name!r} is not what a {op.kind} reads")
    scale = np.asarray(step.scale)
    fits = scale.ndim == 0 or (
        scale.ndim == len(step.shape) and all(n in (1, m) for n, m in zip(scale.shape, step.shape, strict=True))
    )
    if not fits or not np.isfinite(scale).all() or not scale.all():
        raise ValueError(f"step {step.name!r} has an impossible scale")


def _check(plan: Plan) -> None:
    """What an executor relies on: every value is computed before it is read, at levels that the chain has."""
    if not plan.steps or not plan.steps[0].inputs:
        raise ValueError("no steps, or none that reads the input")
    known = {plan.steps[0].inputs[0]: plan.client.input.level}
    for step in plan.steps:
        if len(step.inputs) != step.op.arity or not set(step.inputs) <= set(known):
            raise ValueError(f"step {step.name!r} reads values that are not computed before it")
        below = min(known[name] for name in step.inputs) - step.depth
        most = plan.params.levels if isinstance(step.op, Bootstrap) else below
        if not 0 <= step.level <= most or step.depth < 0 or step.name in known:
            raise ValueError(f"step {step.name!r} at level {step.level}, where at most {most} can be")
        if any(not 0 <= seconds < math.inf for seconds in step.seconds.values()):
            raise ValueError(f"step {step.name!r} is predicted to take no time that can be")
        _check_arrays(step, plan.constants)
        known[step.name] = step.level
    packings = {step.name: step.packing for step in plan.steps}
    for output in plan.client.outputs:
        if packings.get(output.name) != output.packing:
            raise ValueError(f"no step computes output {output.name!r} where the client reads it")


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
        "input_bytes": plan.client.input.bytes,
        "output_bytes": plan.client.output_bytes,
    }


def asdict_without_rotations(needs: KeyNeeds) -> dict[str, Any]:
    """The predictions under one policy, with the number of rotation keys instead of all of them."""
    return {**needs.model_dump(exclude={"rotations"}), "rotations": len(needs.rotations)}
