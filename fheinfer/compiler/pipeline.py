"""From a model and a parameter set to a plan: the ordered list of passes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fheinfer.approx import Activation
from fheinfer.compiler.activations import RANGE_MARGIN, measured_at, relu_of, require_margin
from fheinfer.compiler.auto import activation_reason, candidates, encrypted_bits, nominal, reasons, too_large
from fheinfer.compiler.lower import lower
from fheinfer.compiler.passes.approximate import approximate
from fheinfer.compiler.passes.canonicalise import canonicalise, folded
from fheinfer.compiler.passes.levels import levels, total_depth
from fheinfer.compiler.passes.max_pools import max_pools
from fheinfer.compiler.passes.merge_quadratics import merge_quadratics
from fheinfer.compiler.passes.pack import pack
from fheinfer.compiler.passes.replicas import replicas
from fheinfer.compiler.passes.scales import scales
from fheinfer.compiler.passes.separate_outputs import separate_outputs
from fheinfer.compiler.plan import Plan, behind, limited_to
from fheinfer.compiler.precision import expected_bits
from fheinfer.compiler.presets import preset
from fheinfer.compiler.program import Program
from fheinfer.compiler.split import split
from fheinfer.compiler.stages import Stage, verify
from fheinfer.compiler.wanted import ANYTHING, Wanted, require_number
from fheinfer.crypto.backends import backend as find_backend
from fheinfer.crypto.generated import RINGS
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.errors import ParametersError, UsageError
from fheinfer.model.model import Model

Pass = tuple[Callable[[Program], Program], Stage]
PASSES: tuple[Pass, ...] = (
    (canonicalise, Stage.TENSOR),
    (merge_quadratics, Stage.TENSOR),
    (max_pools, Stage.TENSOR),
    (folded, Stage.TENSOR),
    (approximate, Stage.POLYNOMIAL),
    (separate_outputs, Stage.POLYNOMIAL),
    (pack, Stage.PACKED),
    (replicas, Stage.PACKED),
    (scales, Stage.SCALED),
    (levels, Stage.LEVELED),
)
"""Each pass with the stage that its result is at."""
MOST_COMPILED = 4
"""Sets that are compiled at most where predictions miss a limit of memory, before the smallest: the context of each
stays in memory."""


def compile(
    model: Model,
    set: ParameterSet | str | int = "auto",
    *,
    activation: str | Activation | None = None,
    bits: float | None = None,
    backend: str | None = None,
    margin: float = RANGE_MARGIN,
    client_until: str | None = None,
    memory: float | None = None,
    wanted: Wanted = ANYTHING,
) -> Plan:
    """The plan that runs a model under a parameter set.

    Args:
        model: with the range of every activation.
        set: a parameter set or its name; "auto" takes the one that is predicted to be the fastest (`plan.why`).
        activation: what approximates a ReLU: a name (`fheinfer approx list`), the file of a composite of one's own, or
            the activation itself; that of the set's preset by default, or what `bits` ask for.
        bits: that outputs keep against PyTorch, the worst of an input's, in the median
            (docs/explanation/activations.md): every activation is as exact as that takes. Instead of `activation`.
        backend: who evaluates; that of the set's preset by default.
        margin: factor on the ranges.
        client_until: a node, or the path of a module: the layers up to it are the client's, who computes them in clear
            before it encrypts. Whoever has `client.json` and its companion knows their weights.
        memory: bytes of a server, at most, for "auto": the same as `Wanted(memory=...)`. The plan has the kinds of
            rotation keys that keep it, and no others.
        wanted: what "auto" has to keep to: a ring, a number of levels, a limit of memory and so on.

    Raises:
        UsageError: an activation or backend that does not exist, bits together with an activation, out of range or no
            number, memory that is no number of bytes, a
            margin that is not positive, a node behind which the network cannot be cut, or something wanted of a set
            that is named.
        GraphError: a graph that breaks a rule of its stage.
        PlanError: the network does not fit the set, or any at all, or a range is missing or implausible.
        NotEnoughMemoryError: "auto" finds no set within the limit of memory.
    """
    require_margin(margin)
    require_number("bits", bits, 8)
    if memory is not None:
        wanted = replace(wanted, memory=memory)
    if client_until is not None:
        cut = split(model, client_until, margin)
        plan = compile(cut.rest, set, activation=activation, bits=bits, backend=backend, margin=margin, wanted=wanted)
        return behind(plan, cut.part, cut.first, model)
    start = Start(model, activation, bits, backend, margin)
    if set == "auto":
        return _automatic(start, wanted)
    if wanted != ANYTHING:
        raise UsageError("a set that is named leaves nothing to choose: leave it out, or what is wanted of it")
    return start.plan(set if isinstance(set, ParameterSet) else parameter_set(set))


@dataclass(frozen=True)
class Start:
    """What is compiled, for any set; fields as the arguments of `compile`."""

    model: Model
    activation: str | Activation | None
    bits: float | None
    backend: str | None
    margin: float

    def program(self, params: ParameterSet, passes: Sequence[Pass] = PASSES) -> Program:
        """Returns what some passes make of it."""
        meant, model = preset(params), self.model
        program = Program(
            graph=model.graph,
            constants={name: array.astype("float64") for name, array in model.tensors.items()},
            ranges={name: bound * self.margin for name, bound in model.ranges.items()},
            params=params,
            backend=find_backend(self.backend or meant.backend),
            relu=relu_of(model, self.activation, self.bits, meant.activation, self.margin),
            input_bound=model.input_bound * (self.margin if model.graph.input.name in model.ranges else 1),
            bits=self.bits,
            measured=measured_at(model, self.margin),
        )
        for transform, stage in passes:
            program = verify(transform(program), stage)
        return program

    def plan(self, params: ParameterSet) -> Plan:
        """Returns what all of them make of it."""
        program = self.program(params)
        made = replace(lower(program, self.model), kept=program.kept)
        if made.backend.name != "native":  # whose noise alone is modelled
            return made
        return replace(made, bits=expected_bits(program, params, made.bootstraps))


def _automatic(start: Start, wanted: Wanted) -> Plan:
    """The fastest set that keeps the memory limit, of those that are predicted to be the fastest."""
    if start.backend not in (None, "native"):
        raise UsageError(f"no set is chosen for the {start.backend} backend: name one (`fheinfer sets`)")
    if start.bits is not None:
        wanted = replace(wanted, bits=max(wanted.bits, encrypted_bits(start.bits)))
    before = [p for p in PASSES if p[1] <= Stage.POLYNOMIAL]
    scaled = [p for p in PASSES if p[1] <= Stage.SCALED]
    depth = total_depth(start.program(nominal(RINGS[-1], RINGS[-1] - 1), before))
    found = candidates(lambda params: start.program(params, scaled), depth, wanted)
    smallest = min(found, key=lambda candidate: candidate.memory)
    sizes: dict[int, ParameterSet] = {}
    refused: list[ParametersError] = []
    tried = [c for c in found if wanted.allows(c.memory)][:MOST_COMPILED]
    for candidate in tried if smallest in tried else (*tried, smallest):
        try:
            plan = start.plan(candidate.params)
        except ParametersError as error:  # no primes near so small a scale
            refused.append(error)
            continue
        allowed = [policy for policy, needs in plan.keys.items() if wanted.allows(needs.peak_memory)]
        if allowed:
            plan = plan if len(allowed) == len(plan.keys) else limited_to(plan, allowed)
            activation = activation_reason(plan, asked=start.activation is not None, bits=start.bits)
            return replace(plan, why=(*reasons(found, candidate, wanted), *activation))
        sizes[min(needs.peak_memory for needs in plan.keys.values())] = candidate.params
    if not sizes:
        raise refused[0]
    raise too_large(wanted, sizes[min(sizes)], min(sizes))
