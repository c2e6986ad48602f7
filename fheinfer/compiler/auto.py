"""set="auto": the parameter set that runs a network fastest, of all rings, chains, levels and digits at 128 bits.

Without bootstraps the network's depth gives the levels, and for each ring and chain the fewest digits that leave a
scale for the wanted bits are best: fewer special primes, fewer products. With bootstraps every number of levels that
the ring carries is tried: more of them mean fewer and longer bootstraps. All are priced by what the network does at the
top of one nominal chain (passes/levels.py), moved to the candidate's: nothing is encrypted, and no primes are made.
What a server's memory would hold follows from the same counts. A set above the memory limit does not count as one that
fits, so that the search goes on to those that are slower and smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fheinfer.compiler.cost import NominalCost
from fheinfer.compiler.memory import key_rotations, server_memory
from fheinfer.compiler.passes.levels import at_top, levels, placed_works, total_depth
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.precision import expected_bits
from fheinfer.compiler.program import PLACED_UNDER, Program
from fheinfer.compiler.steps import BOOTSTRAPPED
from fheinfer.compiler.summary import grouped
from fheinfer.compiler.wanted import BOOTSTRAP_RING, Wanted
from fheinfer.compiler.why import Alternative, Reason
from fheinfer.compiler.work import Work
from fheinfer.crypto.generated import MAX_DIGITS, MAX_SCALE_BITS, RINGS, fitted, generated
from fheinfer.crypto.key_policy import KEY_POLICIES, KeyPolicy, core_policy
from fheinfer.crypto.params import Chain, ParameterSet
from fheinfer.errors import NotEnoughMemoryError, PlanError
from fheinfer.model.ops import Bootstrap

SPARE_BITS = 3.0
"""By how much a scale may be finer than that: it costs no time, and its price is modulus."""
LEAST_SCALE = {12: 18, 13: 20, 14: 23, 15: 25, 16: 26}
"""Bits of a plain chain's scale, by ring, from which on there are primes enough near it for OpenFHE, but for the most
levels."""
BOOTSTRAP_BITS = 12.0
"""What bootstraps keep of the largest output of a deep network: where more are asked for, little can be to spare."""
BOOTSTRAP_SLOTS = (14, 15)
"""log2 of the slots: half of those of the ring, or all."""
BUDGETS = ((3, 3), (4, 3))
"""Levels of CoeffToSlot and SlotToCoeff."""
LEAST_BOOTSTRAP_SCALE = 40
"""Bits: below, a bootstrap keeps too few of a value."""
MOST_LEVELS = 16
"""After a bootstrap."""
LEAST_LEVELS = 1
"""Of a chain: a network of sums and views alone takes none."""
NOMINAL_LEVELS = 20
ABOUT = 1.02
"""Predictions as near to the fastest as that are equal, and precision decides."""

Build = Callable[[ParameterSet], Program]
"""The network with scales, packed for the slots of a set."""


def encrypted_bits(bits: float) -> float:
    """Bits that encryption has to keep where outputs are to keep so many: its errors add to those of polynomials."""
    return bits + min(SPARE_BITS, max(1.0, BOOTSTRAP_BITS - bits))


@dataclass(frozen=True)
class Candidate:
    """A set that the network fits, and what a run with it takes and keeps, by estimates.

    memory  bytes of a server, by the key policy that takes less
    """

    params: ParameterSet
    seconds: float
    bits: float
    bootstraps: int
    memory: int


class _Network:
    """The network packed for so many slots, and what its nodes take at the top of a nominal chain."""

    def __init__(self, build: Build, log_n: int, log_slots: int) -> None:
        self.params = replace(nominal(log_n, log_slots), name="auto")
        self.program = build(self.params)

    @cached_property
    def depth(self) -> int:
        return total_depth(self.program)

    @cached_property
    def traced(self) -> dict[KeyPolicy, dict[str, Work]]:
        return {policy: at_top(self.program, policy) for policy in KEY_POLICIES}

    def works(self, params: ParameterSet, policy: KeyPolicy = PLACED_UNDER) -> dict[str, Work]:
        """What every node takes at the top of a chain."""
        top, below = params.top_level, self.params.limbs(self.params.top_level)

        def place(limbs: int) -> int:
            return params.limbs(max(0, top - below + limbs))

        return {name: work.on(place) for name, work in self.traced[policy].items()}

    def least_seconds(self, params: ParameterSet) -> float:
        """What the network takes at least with bootstraps: all of it at the bottom of the chain, and as few of these
        as give the levels of its longest path."""
        cost, network = replace(self.program, params=params).cost, 0.0
        for name, work in self.works(params).items():
            down = params.top_level - self.program.depth(self.program.graph[name])
            network += cost.seconds(_lower(work, down))
        each = max(1, params.levels - params.stc_budget)
        bootstraps = math.ceil((self.depth - params.levels - 1) / each)
        return network + max(0, bootstraps) * cost.seconds(Work.of_bootstrap())

    def candidate(self, params: ParameterSet, wanted: Wanted) -> Candidate | None:
        """None where the network does not fit the set, or keeps too few bits."""
        if expected_bits(self.program, params) < wanted.bits:
            return None
        program = replace(self.program, params=params)
        try:
            placed = levels(program, self.works(params))
        except PlanError:
            return None
        bootstraps = sum(isinstance(node.op, Bootstrap) for node in placed.graph.nodes)
        bits = expected_bits(self.program, params, bootstraps)
        if bits < wanted.bits:
            return None
        cost = program.cost
        seconds = sum(cost.seconds(work) for work in placed.works.values())
        return Candidate(params, seconds, bits, bootstraps, self._memory(placed))

    def _memory(self, placed: Program) -> int:
        sizes = []
        for policy in KEY_POLICIES:
            cost = NominalCost(placed.params, placed.backend, core_policy(policy))
            works = placed_works(placed, self.works(placed.params, policy))
            sizes.append(server_memory(placed, works, key_rotations(works, cost), cost))
        return min(sizes)


def _lower(work: Work, down: int) -> Work:
    return work.on(lambda limbs: max(1, limbs - down))


def nominal(log_n: int, log_slots: int) -> ParameterSet:
    """A plain chain to pack and trace a network for; its primes are never made."""
    return ParameterSet("auto", log_n, 1 << log_slots, 49, 40, 49, 3, 0, 0, NOMINAL_LEVELS, insecure=True)


def candidates(build: Build, depth: int, wanted: Wanted) -> list[Candidate]:
    """Lists the sets that the network fits: those within the memory limit first, of these the fastest first; of those
    about as fast, the most exact one.

    Args:
        build: packs the network for the slots of a set.
        depth: levels that it takes at least, however it is packed (`total_depth`).
        wanted: what is fixed.

    Raises:
        PlanError: no set fits; it says what the network needs and which layer needs it.
    """
    depth = max(depth, LEAST_LEVELS)
    networks: dict[tuple[int, int], _Network] = {}

    def network(log_n: int, log_slots: int) -> _Network:
        key = (log_n, log_slots)
        if key not in networks:
            networks[key] = _Network(build, log_n, log_slots)
        return networks[key]

    found = list(_flat(network, depth, wanted))
    fastest = min((c.seconds for c in found if wanted.allows(c.memory)), default=math.inf)
    found += _bootstrapped(network, wanted, fastest)
    if not found:
        raise _none(network, wanted)
    if wanted.bootstraps:
        fitting, found = found, [c for c in found if c.bootstraps]
        if not found:
            raise PlanError(
                f"a network that takes {depth} levels needs no bootstraps on chains that return "
                f"{min(c.params.levels for c in fitting)} or more; leave {', '.join(wanted.fixed)} open"
            )
    fastest = min((c.seconds for c in found if wanted.allows(c.memory)), default=math.inf)

    def order(c: Candidate) -> tuple[bool, bool, float, float]:
        level = c.seconds > fastest * ABOUT
        return not wanted.allows(c.memory), level, 0.0 if level else -round(c.bits), c.seconds

    return sorted(found, key=order)


Networks = Callable[[int, int], _Network]


def _flat(network: Networks, depth: int, wanted: Wanted) -> Iterator[Candidate]:
    """Sets without bootstraps: the smallest ring that fits and the one above."""
    if wanted.bootstraps:
        return
    rings = RINGS if wanted.log_n is None else (wanted.log_n,)
    fitting = 0
    for log_n in rings:
        log_slots = log_n - 1 if wanted.log_slots is None else wanted.log_slots
        if fitting == 2 or log_slots > log_n - 1 or not _carries(log_n, depth):
            continue
        try:
            of = network(log_n, log_slots)
        except PlanError:  # too few slots
            continue
        fits = False
        for chain in ("composite", "plain") if wanted.chain is None else (wanted.chain,):
            for candidate in _digits(of, wanted, log_n, log_slots, chain):
                fits |= wanted.allows(candidate.memory)
                yield candidate
        fitting += fits


def _carries(log_n: int, depth: int) -> bool:
    """Whether a ring has any chain of so many levels."""
    return any(fitted(log_n, depth, digits, MAX_SCALE_BITS["plain"]) for digits in (MAX_DIGITS, depth + 1))


def _digits(of: _Network, wanted: Wanted, log_n: int, log_slots: int, chain: Chain) -> Iterator[Candidate]:
    """The fewest digits that leave a scale for the wanted bits, and one more of each for comparison."""
    levels_ = max(of.depth, LEAST_LEVELS, wanted.levels or 0)
    levels_ += levels_ % 2 if chain == "composite" else 0
    if wanted.levels is not None and wanted.levels != levels_:
        return
    found = 0
    for digits in range(1, levels_ + 2) if wanted.digits is None else (wanted.digits,):
        params = _scaled(of, wanted, log_n, levels_, digits, chain, log_slots)
        candidate = params and params.digits == digits and of.candidate(params, wanted)
        if candidate:
            yield candidate
            found += wanted.allows(candidate.memory)
        if found == 2 or digits > MAX_DIGITS + 2:
            return


def _scaled(
    of: _Network, wanted: Wanted, log_n: int, levels_: int, digits: int, chain: Chain, log_slots: int
) -> ParameterSet | None:
    """The finest scale that fits, but no finer than the wanted bits and a few to spare."""
    if wanted.scale_bits is not None:
        try:
            return generated(log_n, levels_, wanted.scale_bits, digits, chain=chain, log_slots=log_slots)
        except PlanError:
            return None
    most = fitted(log_n, levels_, digits, MAX_SCALE_BITS[chain], chain=chain, log_slots=log_slots)
    if most is None:
        return None
    spare = math.floor(expected_bits(of.program, most) - wanted.bits - SPARE_BITS)
    floor = LEAST_SCALE[log_n] if chain == "plain" else 0
    finest = max(min(floor, most.scale_bits), most.scale_bits - max(0, spare))
    return fitted(log_n, levels_, digits, finest, chain=chain, log_slots=log_slots)


def _bootstrapped(network: Networks, wanted: Wanted, fastest: float) -> Iterator[Candidate]:
    """Sets with bootstraps that may take less than the fastest so far: all numbers of levels with the first slots and
    budgets, those near the best of them with the others."""
    if wanted.log_n not in (None, BOOTSTRAP_RING) or wanted.chain == "composite" or wanted.bootstraps is False:
        return
    best: int | None = None
    for log_slots in BOOTSTRAP_SLOTS if wanted.log_slots is None else (wanted.log_slots,):
        try:
            of = network(BOOTSTRAP_RING, log_slots)
        except PlanError:  # too few slots
            continue
        if not wanted.bootstraps and not any(isinstance(node.op, BOOTSTRAPPED) for node in of.program.graph):
            return
        for budgets in BUDGETS:
            first = budgets[1] + 1
            numbers = range(first, MOST_LEVELS + 1) if best is None else range(max(first, best - 1), best + 2)
            for levels_ in numbers if wanted.levels is None else (wanted.levels,):
                params = _bootstrap_chain(wanted, levels_, budgets, log_slots)
                if params is None or of.least_seconds(params) >= fastest:
                    continue
                candidate = of.candidate(params, wanted)
                if candidate is None:
                    continue
                if wanted.allows(candidate.memory) and (candidate.bootstraps or not wanted.bootstraps):
                    if best is None or candidate.seconds < fastest:
                        best = levels_
                    fastest = min(fastest, candidate.seconds)
                yield candidate


def _bootstrap_chain(wanted: Wanted, levels_: int, budgets: tuple[int, int], log_slots: int) -> ParameterSet | None:
    """The fewest digits that leave a scale."""
    for digits in range(1, MAX_DIGITS + 1) if wanted.digits is None else (wanted.digits,):
        most = MAX_SCALE_BITS["plain"] if wanted.scale_bits is None else wanted.scale_bits
        params = fitted(BOOTSTRAP_RING, levels_, digits, most, budgets=budgets, log_slots=log_slots)
        if params and params.scale_bits >= (wanted.scale_bits or LEAST_BOOTSTRAP_SCALE):
            return params
    return None


def _none(network: Networks, wanted: Wanted) -> PlanError:
    ring = wanted.log_n or RINGS[-1]
    of = network(ring, wanted.log_slots or ring - 1)  # raises where a row does not fit the slots
    deepest = max(of.program.graph.nodes[1:], key=of.program.depth)
    where = deepest.module or deepest.activation or deepest.name
    advice = "leave that open, or take" if wanted.fixed else "take"
    return PlanError(
        f"{of.program.graph.name!r} fits no ring of N = 2^{RINGS[0]} to 2^{RINGS[-1]} at 128 bits{wanted.as_asked}: it "
        f"takes {of.depth} levels, of which {where!r} takes {of.program.depth(deepest)}; {advice} a polynomial of "
        f"lower degree there, fewer layers or fewer bits than {wanted.bits:g}"
    )


def reasons(found: Sequence[Candidate], taken: Candidate, wanted: Wanted) -> tuple[Reason, ...]:
    """Why that one was compiled: each choice with its alternatives among all that were found."""
    limited = any(c.seconds < taken.seconds and not wanted.allows(c.memory) for c in found)
    views: dict[str, Callable[[Candidate], str]] = {
        "ring": lambda c: f"N = 2^{c.params.log_n}",
        "bootstraps": lambda c: str(c.bootstraps),
        "chain": lambda c: f"{c.params.chain} primes",
        "levels": lambda c: str(c.params.levels),
        "digits": lambda c: str(c.params.digits),
        "scale": lambda c: f"{c.params.scale_bits} bits",
        "slots": lambda c: str(c.params.slots),
    }
    out = []
    for name, view in views.items():
        others: dict[str, Alternative] = {}
        for c in found:
            if view(c) != view(taken) and view(c) not in others:
                others[view(c)] = Alternative(view(c), c.params.name, c.seconds, c.bits, c.memory)
        if name in wanted.fixed:
            reason = "as asked"
        elif not others:
            reason = "the only one that fits" if name in ("ring", "chain") else "follows from the other choices"
        else:
            reason = "the fastest within the memory limit" if limited else "predicted to be the fastest"
        out.append(Reason(name, view(taken), reason, tuple(others.values())[:6]))
    takes = f"{taken.seconds:.3g} s, {taken.bits:.0f} bits, {taken.memory / 1e6:,.0f} MB"
    out[0] = replace(out[0], reason=f"{out[0].reason}; {takes}")
    return tuple(out)


def activation_reason(plan: Plan, *, asked: bool, bits: float | None) -> tuple[Reason, ...]:
    """Why its activations are these polynomials; nothing where there are none.

    Args:
        asked: whether somebody named what approximates a ReLU.
        bits: that outputs were to keep.
    """
    if not plan.degrees:
        return ()
    if bits is not None:
        reason = f"for {bits:g} bits of PyTorch's outputs, as asked"
    elif asked:
        reason = "as asked"
    elif plan.kept is None or plan.kept == math.inf:
        reason = "exact"
    else:
        reason = f"the default, expected to leave {plan.kept:.1f} bits of PyTorch's outputs; ask for others by bits"
    return (Reason("activation", ": ".join(filter(None, (plan.activation, grouped(plan.degrees)))), reason),)


def too_large(wanted: Wanted, params: ParameterSet, least: int) -> NotEnoughMemoryError:
    """What to say where nothing keeps the memory limit: that set takes least."""
    limit, needed = math.floor((wanted.memory or 0) / 1e6), math.ceil(least / 1e6)
    return NotEnoughMemoryError(
        f"no parameter set{wanted.as_asked} runs this network within {limit:,} MB: the smallest, {params.name}, takes "
        f"{needed:,} MB; allow as much, or make the network smaller"
    )
