"""Which rotation keys a levelled program needs, and the memory of a server with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fheinfer import _core
from fheinfer.compiler.cost import CostModel
from fheinfer.compiler.plan import base_memory
from fheinfer.compiler.program import Program
from fheinfer.compiler.work import Work
from fheinfer.crypto.key_policy import Rotations
from fheinfer.crypto.params import ParameterSet


def server_memory(program: Program, works: Sequence[Work], rotations: Rotations, cost: CostModel) -> int:
    """Bytes of a server that holds these keys and evaluates the program, whose steps take that work."""
    bootstraps = any(work.bootstraps for work in works)
    working = max([cost.working_bytes(), *(_working_bytes(work, program.params) for work in works)])
    keys = cost.key_memory(rotations, bootstraps=bootstraps) + (cost.table_bytes() if bootstraps else 0)
    return base_memory(program.params) + keys + working + _alive_bytes(program)


def key_rotations(works: Iterable[Work], cost: CostModel) -> Rotations:
    """The rotation keys that steps of that work need."""
    needs = [need for work in works for need in work.rotation_keys.items()]
    bootstraps = any(work.bootstraps for work in works)
    return key_heights([*needs, *(cost.bootstrap_rotations() if bootstraps else [])], cost)


def key_heights(needs: Iterable[tuple[int, int]], cost: CostModel) -> Rotations:
    """The keys that serve these (rotation, limbs).

    A backend of one height takes one key for a rotation. The native one has two: what the network and SlotToCoeff need,
    and the whole chain for CoeffToSlot. A key of few limbs is a tenth of the size and of the work. The rotations of one
    linear map share a ModUp only if their keys have the same special primes: each is as low as those allow.
    """
    params = cost.params
    cyclic = 1 << (params.log_n - 1)  # rotations by k and k - N/2 are the same automorphism: one key
    two = cost.backend.key_heights == 2
    tallest: dict[tuple[int, bool], int] = {}
    for k, limbs in needs:
        key = (k % cyclic, two and limbs > params.levels + 1)
        tallest[key] = max(tallest.get(key, 0), limbs)
    if two:
        for high in (False, True):
            keys = {key: limbs for key, limbs in tallest.items() if key[1] is high}
            least = _least_height(max(keys.values(), default=0), cost)
            tallest.update({key: max(limbs, least) for key, limbs in keys.items()})
    return tuple(sorted((k, limbs) for (k, _), limbs in tallest.items()))


def _least_height(most: int, cost: CostModel) -> int:
    """The fewest limbs of a key that has as many special primes as one of `most` limbs."""
    specials = [cost.key_specials(limbs) for limbs in range(1, most + 1)]
    return 1 + next((i for i, count in enumerate(specials) if count == specials[-1]), -1)


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
