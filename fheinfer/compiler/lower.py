"""The last pass: a levelled program becomes plan steps, with the keys they need and what a run is predicted to take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fheinfer.compiler.plan import BASE_MEMORY, RESULT_BITS, Plan, finished
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
from fheinfer.packing import Layout, slot_index
from fheinfer.tensor_packing import Packing


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
        memory = BASE_MEMORY + cost.key_memory(rotations, bootstraps=bootstraps) + tables + cost.working_bytes()
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
    entry, end = program.graph.input, steps[-1]
    (outputs,) = program.graph.shapes[end.name]
    cost = program.cost
    scale = float(np.asarray(end.scale))
    level = program.levels[entry.name]
    source = InputSpec(
        shape=program.graph.input_shape,
        packing=packing_of(program.layouts[entry.name]),
        scale=float(np.asarray(program.scales[entry.name])),
        level=level,
        bytes=cost.input_bytes(level),
    )
    output = OutputSpec(
        name=end.name,
        shape=(outputs,),
        packing=packing_of(end.layout),
        scale=scale,
        # The scale of the last layer is such that no slot is larger; polynomials may overshoot their range a little.
        bound=OUTPUT_ROOM * scale * program.params.max_slot**2,
        final=model.final,
        classes=model.classes,
    )
    client = {
        "model": model.name,
        "params": program.params,
        "backend": program.backend.name,
        "mean": model.mean,
        "std": model.std,
        "input": source,
        "outputs": (output,),
        "output_bytes": cost.output_bytes(RESULT_BITS),
        "bootstraps": bootstraps,
        "keys": keys,
    }
    return finished(client, program.relu.name, steps, constants, cost.table_bytes() if bootstraps else 0)


def packing_of(layout: Layout) -> Packing:
    """A layout as files for clients describe it."""
    shape = (layout.channels, layout.height, layout.width)
    start = slot_index(layout)[:, :1, 0]
    row, column = layout.gap * layout.grid_width, layout.gap
    return Packing(shape, start, row, column, layout.height, layout.period)


OUTPUT_ROOM = 2.0
"""How much larger than planned an output may be before a client refuses it."""


def _work(step: Step, program: Program, policy: KeyPolicy) -> Work:
    if policy == PLACED_UNDER or isinstance(step.op, Bootstrap):
        return program.works[step.name]
    return program.trace(step, policy)


def key_heights(needs: Iterable[tuple[int, int]], params: ParameterSet, backend: Backend) -> Rotations:
    """The keys that serve these (rotation, limbs).

    A backend of one height takes one key for a rotation. The native one has two: the tallest that the network and
    SlotToCoeff need, and the whole chain for CoeffToSlot. A key of few limbs is a tenth of the size and of the work,
    and the rotations of one linear map share a ModUp only if their keys have the same special primes.
    """
    cyclic = 1 << (params.log_n - 1)  # rotations by k and k - N/2 are the same automorphism: one key
    two = backend.key_heights == 2
    tallest: dict[tuple[int, bool], int] = {}
    for k, limbs in needs:
        key = (k % cyclic, two and limbs > params.levels + 1)
        tallest[key] = max(tallest.get(key, 0), limbs)
    if two:
        for high in (False, True):
            most = max((limbs for key, limbs in tallest.items() if key[1] is high), default=0)
            tallest.update({key: most for key in tallest if key[1] is high})
    return tuple(sorted((k, limbs) for (k, _), limbs in tallest.items()))
