"""The last pass: a scaled, levelled graph becomes plan steps, traced for rotation keys and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from fheinfer import _core
from fheinfer.approx import chebyshev
from fheinfer.compiler.cost import BASE_MEMORY, CostModel, cost_model
from fheinfer.compiler.plan import RESULT_BITS, ClientSpec, Plan, Prediction, Rotations, Step, plan_identity
from fheinfer.compiler.program import Arrays, Program
from fheinfer.graph.ir import Node
from fheinfer.params import ParameterSet
from fheinfer.policy import KeyPolicy, core_policy


def lower(program: Program, mean: Sequence[float], std: Sequence[float], keys: KeyPolicy) -> Plan:
    graph, params = program.graph, program.params
    constants = {}
    steps = []
    for node in graph.nodes[1:]:
        step = _step(node, program)
        for name in step.weights.values():
            if node.op == "relu":
                constants[name] = chebyshev.relu(params.relu_degree) * node.attrs["gain"]
            else:
                constants[name] = np.ascontiguousarray(program.constants[name])
        steps.append(step)

    context, policy = _core.Context(params.core()), core_policy(keys)
    cost = cost_model(params, context, policy)
    evaluator = _core.TraceEvaluator(params.slots, params.level_model(), policy)
    steps, rotations = _trace(evaluator, program, steps, constants, cost)
    bootstraps = any(step.op == "bootstrap" for step in steps)
    if bootstraps:
        rotations += (
            _core.native_bootstrap_rotations(context, policy)
            if params.native
            else context.bootstrap_rotations().items()
        )
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


def _step(node: Node, program: Program) -> Step:
    conv = tuple(node.attrs[k] for k in ("kernel", "stride", "padding")) if node.op == "conv2d" else None
    weights = {"coefficients": f"{node.name}/coefficients"} if node.op == "relu" else dict(node.weights)
    return Step(
        name=node.name,
        op=node.op,
        inputs=node.inputs,
        level=node.attrs["level"],
        scale=node.attrs["scale"],
        layout=node.attrs["layout"],
        in_layout=program.graph[node.inputs[0]].attrs["layout"],
        weights=weights,
        conv=conv,
        mask=node.op == "linear" and node is program.graph.output,
    )


def _trace(
    evaluator: _core.TraceEvaluator, program: Program, steps: list[Step], constants: Arrays, cost: CostModel
) -> tuple[list[Step], list[tuple[int, int]]]:
    """Runs the steps on the trace evaluator: the rotations they use at which height, and a predicted time for each."""
    values = {program.graph.input.name: evaluator.encrypt(program.graph.input.attrs["level"])}
    rotations: list[tuple[int, int]] = []
    timed = []
    for step in steps:
        evaluator.reset()
        values[step.name] = step.apply(evaluator, constants, [values[i] for i in step.inputs])
        report = evaluator.report()
        rotations += report.rotation_keys.items()
        timed.append(replace(step, seconds=cost.seconds(report)))
        assert evaluator.level(values[step.name]) == step.level, (
            f"{step.name}: the levels pass and the kernels disagree"
        )
    return timed, rotations


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
