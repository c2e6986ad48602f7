"""The last pass: a levelled graph becomes plan steps, with their rotation keys and what a run is predicted to take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from fheinfer.compiler.cost.base import BASE_MEMORY
from fheinfer.compiler.plan import RESULT_BITS, ClientSpec, Plan, Prediction, Rotations, plan_identity
from fheinfer.compiler.policy import KeyPolicy, core_policy
from fheinfer.compiler.program import PLACED_UNDER, Program
from fheinfer.compiler.steps import step_of
from fheinfer.crypto.params import ParameterSet


def lower(program: Program, mean: Sequence[float], std: Sequence[float], keys: KeyPolicy) -> Plan:
    graph, params = program.graph, program.params
    policy = core_policy(keys)
    cost = program.cost_under(policy)
    steps, constants = [], {}
    rotations: list[tuple[int, int]] = []
    for node in graph.nodes[1:]:
        step, work = step_of(node, program), node.attrs["work"]
        if policy != PLACED_UNDER and step.op != "bootstrap":
            work = step.trace(program, policy)
        rotations += work.rotation_keys.items()
        work = work.thinner(step.left(program.constants))
        multiplications = sum(work.plain_multiplications.values())
        step = replace(step, seconds=cost.seconds(work), multiplications=multiplications)
        for name in step.weights.values():
            constants[name] = np.ascontiguousarray(program.constants[name])
        steps.append(step)
    bootstraps = any(step.op == "bootstrap" for step in steps)
    if bootstraps:
        rotations += cost.bootstrap_rotations()
    manifest = _manifest(rotations, params)

    entry, end = graph.input, graph.output
    client = ClientSpec(
        network=graph.name,
        params=params.name,
        input_shape=tuple(entry.attrs["shape"]),
        mean=tuple(mean),
        std=tuple(std),
        input_scale=entry.attrs["scale"],
        input_level=entry.attrs["level"],
        output_scale=end.attrs["scale"],
        outputs=end.attrs["out_features"],
        plan=plan_identity(graph.name, params, steps, constants),
    )
    key_bytes = cost.key_bytes(manifest, bootstraps=bootstraps)
    table_bytes = cost.table_bytes() if bootstraps else 0
    prediction = Prediction(
        seconds=sum(step.seconds for step in steps),
        peak_memory=BASE_MEMORY + cost.key_memory(manifest, bootstraps=bootstraps) + table_bytes + cost.working_bytes(),
        key_bytes=key_bytes,
        table_bytes=table_bytes,
        input_bytes=cost.input_bytes(client.input_level),
        output_bytes=cost.output_bytes(RESULT_BITS),
    )
    return Plan(graph.name, params, tuple(steps), constants, keys, manifest, client, prediction)


def _manifest(needs: Iterable[tuple[int, int]], params: ParameterSet) -> Rotations:
    """The keys that serve these (rotation, limbs).

    OpenFHE takes one key for a rotation. Ours come in two heights: the tallest that the network and SlotToCoeff need,
    and the whole chain for CoeffToSlot. A key of few limbs is a tenth of the size and of the work, and the rotations of
    one transform share a ModUp only if their keys have the same special primes.
    """
    cyclic = 1 << (params.log_n - 1)  # rotations by k and k - N/2 are the same automorphism: one key
    tallest: dict[tuple[int, bool], int] = {}
    for k, limbs in needs:
        key = (k % cyclic, params.native and limbs > params.levels + 1)
        tallest[key] = max(tallest.get(key, 0), limbs)
    if params.native:
        for high in (False, True):
            most = max((limbs for key, limbs in tallest.items() if key[1] is high), default=0)
            tallest.update({key: most for key in tallest if key[1] is high})
    return tuple(sorted((k, limbs) for (k, _), limbs in tallest.items()))
