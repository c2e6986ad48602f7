"""The last pass: a levelled program becomes plan steps, with the keys they need and what a run is predicted to take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fheinfer.compiler.magnitudes import largest_slots
from fheinfer.compiler.memory import key_rotations, server_memory
from fheinfer.compiler.plan import RESULT_BITS, Plan, finished
from fheinfer.compiler.program import PLACED_UNDER, Program
from fheinfer.compiler.steps import Step
from fheinfer.compiler.work import Work
from fheinfer.crypto.client_spec import KeyNeeds
from fheinfer.crypto.client_tensors import InputSpec, OutputSpec
from fheinfer.crypto.key_policy import KEY_POLICIES, KeyPolicy
from fheinfer.crypto.params import public_key_bytes
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
        rotations = key_rotations(works, cost)
        keys[policy] = KeyNeeds(
            rotations=rotations,
            key_bytes=cost.key_bytes(rotations, bootstraps=bootstraps) + public_key_bytes(program.params),
            peak_memory=server_memory(program, works, rotations, cost),
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
    return finished(client, activation, steps, constants, cost.table_bytes() if bootstraps else 0, model.identity)


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


def _work(step: Step, program: Program, policy: KeyPolicy) -> Work:
    if policy == PLACED_UNDER or isinstance(step.op, Bootstrap):
        return program.works[step.name]
    return program.trace(step, policy)
