"""Which step of a plan asks for which rotation key, and what each key weighs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fheinfer import _core
from fheinfer.compiler.cost.base import cost_model
from fheinfer.compiler.plan import Plan, serving
from fheinfer.compiler.policy import core_policy

COEFF_TO_SLOT, SLOT_TO_COEFF, BOOTSTRAP = "CoeffToSlot", "SlotToCoeff", "bootstrap"
"""Users of keys that are shared by all bootstraps: the halves of ours, the whole of OpenFHE's."""


@dataclass(frozen=True)
class RotationKey:
    """A key of `Plan.rotations`.

    limbs  its height: primes of Q it can work on; `bytes`, on disk, grow nearly with the square of that
    users  steps that rotate with it, in the order of the plan, then `COEFF_TO_SLOT`, `SLOT_TO_COEFF` or `BOOTSTRAP`
    """

    rotation: int
    limbs: int
    bytes: int
    users: tuple[str, ...]


def rotation_keys(plan: Plan) -> list[RotationKey]:
    """The rotation keys of a plan in the order of its manifest, each with everything that uses it. Needs no keys.

    A rotation goes to the lowest key that is tall enough, as on a server.
    """
    policy, params = core_policy(plan.keys), plan.params
    cost = cost_model(params, _core.Context(params.core()), policy)
    needs: list[tuple[str, Iterable[tuple[int, int]]]] = [
        (step.name, step.trace(plan, policy).rotation_keys.items()) for step in plan.steps if step.op != "bootstrap"
    ]
    if plan.bootstraps:
        rotations, middle = cost.bootstrap_rotations(), params.levels + 1  # SlotToCoeff is ours to do at low levels
        high, low = (COEFF_TO_SLOT, SLOT_TO_COEFF) if params.native else (BOOTSTRAP, BOOTSTRAP)
        needs += [(high, [need for need in rotations if need[1] > middle])]
        needs += [(low, [need for need in rotations if need[1] <= middle])]
    users: dict[tuple[int, int], dict[str, None]] = {key: {} for key in plan.rotations}
    for name, wanted in needs:
        for rotation, limbs in wanted:
            key = serving(plan.rotations, rotation % (1 << (params.log_n - 1)), limbs)
            assert key, "a manifest has a key for every rotation"
            users[key][name] = None
    weight = {key: cost.key_bytes((key,), bootstraps=False) - cost.key_bytes((), bootstraps=False) for key in users}
    return [RotationKey(*key, weight[key], tuple(names)) for key, names in users.items()]
