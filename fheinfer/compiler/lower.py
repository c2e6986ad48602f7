"""The last pass: a levelled program becomes plan steps, with the keys they need and what a run is predicted to take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fheinfer import _core
from fheinfer.compiler.magnitudes import largest_slots
from fheinfer.compiler.plan import RESULT_BITS, Plan, base_memory, finished
from fheinfer.compiler.program import PLACED_UNDER, Program
from fheinfer.compiler.steps import Step
from fheinfer.compiler.work import Work
from fheinfer.crypto.backends import Backend
from fheinfer.crypto.client_spec import KeyNeeds
from fheinfer.crypto.client_tensors import InputSpec, OutputSpec
from fheinfer.crypto.key_policy import KEY_POLICIES, KeyPolicy, Rotations
from fheinfer.crypto.params import ParameterSet, public_key_bytes
from fheinfer.model.model import Model
from fheinfer.model.ops import Bootstrap


def lower(program: Program, model: Model) -> Plan:
    """Makes the plan: steps, the keys that each policy needs, and predictions for the reference machine."""
    steps = [program.step(node) for node in program.graph.nodes[1:]]
    bootstraps = any(isinstance(step.op, Bootstrap) for step in steps)
    kept = [step.kept(program.constants) for step in steps]
    seconds: list[dict[KeyPolicy, float]] = [{} for _ in steps]
    keys: dict[KeyPolicy, KeyNeeds] = {}
    for policy in KEY_POLICIES:
        works = [_work(step, program, policy) for step in steps]
        cost = program.cost_under(policy)
        for index, work in enumerate(works):
            seconds[index][policy] = cost.seconds(work.thinner(kept[index]))
        needs = [need for work in works for need in work.rotation_keys.items()]
        rotations = key_heights(
            [*needs, *(cost.bootstrap_rotations() if bootstraps else [])], program.params, program.backend
        )
        tables = cost.table_bytes() if bootstraps else 0
        working = max([cost.working_bytes(), *(_working_bytes(work, program.params) for work in works)])
        memory = base_memory(program.params) + cost.key_memory(rotations, bootstraps=bootstraps) + tables
        memory += working + _alive_bytes(program)
        keys[policy] = KeyNeeds(
            rotations=rotations,
            key_bytes=cost.key_bytes(rotations, bootstraps=bootstraps) + public_key_bytes(program.params),
            peak_memory=memory,
            seconds=sum(s[policy] for s in seconds),
        )
    products = [
        sum(program.works[step.name].thinner(part).plain_multiplications.values())
        for step, part in zip(steps, kept, strict=True)
    ]
    steps = [replace(s, seconds=t, multiplications=n) for s, t, n in zip(steps, seconds, products, strict=True)]
    constants = {n: np.ascontiguousarray(program.constants[n]) for s in steps for n in s.op.tensors.values()}
    entry, cost = program.graph.input, program.cost
    level, packing = program.levels[entry.name], program.packings[entry.name]
    source = InputSpec(
        shape=program.graph.input_shape,
        packing=packing,
        scale=float(np.asarray(program.scales[entry.name])),
        level=level,
        bytes=cost.input_bytes(level) * packing.ciphertexts,
    )
    largest = largest_slots(program)
    outputs = tuple(_output(program, model, name, largest[name]) for name in program.graph.outputs)
    client = {
        "model": model.name,
        "params": program.params,
        "backend": program.backend.name,
        "mean": model.mean,
        "std": model.std,
        "input": source,
        "outputs": outputs,
        "output_bytes": cost.output_bytes(RESULT_BITS) * sum(output.ciphertexts for output in outputs),
        "bootstraps": bootstraps,
        "keys": keys,
    }
    activation = program.relu.name if model.graph.has_relus else ""
    return finished(client, activation, steps, constants, cost.table_bytes() if bootstraps else 0)


OUTPUT_ROOM = 2.0
"""How much larger than planned an output may be before a client refuses it."""


def _output(program: Program, model: Model, name: str, largest: float) -> OutputSpec:
    shape, scale = program.packings[name].shape, float(np.asarray(program.scales[name]))
    return OutputSpec(
        name=name,
        shape=shape,
        packing=program.packings[name],
        scale=scale,
        bound=OUTPUT_ROOM * scale * largest,  # polynomials may overshoot their range a little
        final=model.final,
        classes=model.classes if shape == (len(model.classes),) else (),
    )


def _working_bytes(work: Work, params: ParameterSet) -> int:
    """The baby steps of a linear map, two polynomials each."""
    rows = sum(limbs * count for limbs, count in work.hoisted_key_switches.items())
    return min(_core.working_limit(), 2 * rows * (8 << params.log_n))


def _alive_bytes(program: Program) -> int:
    """The most that values which are still read take at a time, where they are more than one ciphertext each."""
    nodes, most = program.graph.nodes, 0
    last = {name: index for index, node in enumerate(nodes) for name in node.inputs}
    size = {
        node.name: (program.packings[node.name].ciphertexts - 1)
        * 2
        * program.params.limbs(program.levels[node.name])
        * (8 << program.params.log_n)
        for node in nodes
    }
    for index, node in enumerate(nodes):
        alive = [other.name for other in nodes[:index] if last.get(other.name, index) >= index]
        most = max(most, size[node.name] + sum(size[name] for name in alive))
    return most


def _work(step: Step, program: Program, policy: KeyPolicy) -> Work:
    if policy == PLACED_UNDER or isinstance(step.op, Bootstrap):
        return program.works[step.name]
    return program.trace(step, policy)


def key_heights(needs: Iterable[tuple[int, int]], params: ParameterSet, backend: Backend) -> Rotations:
    """The keys that serve these (rotation, limbs).

    A backend of one height takes one key for a rotation. The native one has two: what the network and SlotToCoeff need,
    and the whole chain for CoeffToSlot. A key of few limbs is a tenth of the size and of the work. The rotations of one
    linear map share a ModUp only if their keys have the same special primes: each is as low as those allow.
    """
    cyclic = 1 << (params.log_n - 1)  # rotations by k and k - N/2 are the same automorphism: one key
    two = backend.key_heights == 2
    tallest: dict[tuple[int, bool], int] = {}
    for k, limbs in needs:
        key = (k % cyclic, two and limbs > params.levels + 1)
        tallest[key] = max(tallest.get(key, 0), limbs)
    if two:
        for high in (False, True):
            keys = {key: limbs for key, limbs in tallest.items() if key[1] is high}
            least = _least_height(max(keys.values(), default=0), params, backend)
            tallest.update({key: max(limbs, least) for key, limbs in keys.items()})
    return tuple(sorted((k, limbs) for (k, _), limbs in tallest.items()))


def _least_height(most: int, params: ParameterSet, backend: Backend) -> int:
    """The fewest limbs of a key that has as many special primes as one of `most` limbs."""
    context = backend.context(params)
    specials = [_core.native_key_specials(context, limbs) for limbs in range(1, most + 1)]
    return 1 + next((i for i, count in enumerate(specials) if count == specials[-1]), -1)
