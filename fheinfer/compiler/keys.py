"""Which step of a plan asks for which rotation key, and what each key weighs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fheinfer.compiler.cost import cost_model
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.key_policy import KeyPolicy, choose, serving
from fheinfer.errors import PlanError
from fheinfer.model.ops import Bootstrap, Conv2d

COEFF_TO_SLOT, SLOT_TO_COEFF, BOOTSTRAP = "CoeffToSlot", "SlotToCoeff", "bootstrap"
"""Users of keys that are shared by all bootstraps: the two halves of the native one, or the whole of OpenFHE's."""


@dataclass(frozen=True)
class RotationKey:
    """A rotation key that a plan needs.

    limbs  its height: primes of Q it can work on; `bytes`, on disk, grow nearly with the square of that
    users  steps that rotate with it, in the order of the plan, then `COEFF_TO_SLOT`, `SLOT_TO_COEFF` or `BOOTSTRAP`
    """

    rotation: int
    limbs: int
    bytes: int
    users: tuple[str, ...]


def rotation_keys(plan: Plan, policy: KeyPolicy = "fast") -> list[RotationKey]:
    """The rotation keys of a plan under a policy, each with everything that uses it. Makes none.

    A rotation goes to the lowest key that is tall enough, as on a server.

    Raises:
        UsageError: the plan has no keys of that policy.
    """
    policy = choose(plan.keys, policy, None)
    params = plan.params
    cost = cost_model(params, plan.backend, policy)
    constants = dict(plan.constants)
    for step in plan.steps:
        if isinstance(step.op, Conv2d):  # as when the keys were chosen: none of the weights is zero
            constants[step.op.weight] = np.ones_like(constants[step.op.weight])
    levels = plan.backend.level_model(params)
    needs: list[tuple[str, Iterable[tuple[int, int]]]] = [
        (step.name, step.trace(params.slots, levels, constants, policy).rotation_keys.items())
        for step in plan.steps
        if not isinstance(step.op, Bootstrap)
    ]
    if plan.bootstraps:
        rotations, middle = cost.bootstrap_rotations(), params.levels + 1  # the native SlotToCoeff is at low levels
        high, low = (COEFF_TO_SLOT, SLOT_TO_COEFF) if plan.backend.key_heights == 2 else (BOOTSTRAP, BOOTSTRAP)
        needs += [(high, [need for need in rotations if need[1] > middle])]
        needs += [(low, [need for need in rotations if need[1] <= middle])]
    users: dict[tuple[int, int], dict[str, None]] = {key: {} for key in plan.keys[policy].rotations}
    for name, wanted in needs:
        for rotation, limbs in wanted:
            key = serving(users, rotation % (1 << (params.log_n - 1)), limbs)
            if key is None:
                raise PlanError(f"the plan lists no key for rotation {rotation} at {limbs} limbs, which {name} needs")
            users[key][name] = None
    weight = {key: cost.key_bytes((key,), bootstraps=False) - cost.key_bytes((), bootstraps=False) for key in users}
    return [RotationKey(*key, weight[key], tuple(names)) for key, names in users.items()]
