"""How many bits an encrypted run is expected to keep, from the sizes of noise alone; nothing is evaluated.

A rescaling or a key switch rounds both polynomials of a ciphertext: (1 + h) / 12 of variance in every coefficient,
with h = 2N/3 for a dense ternary secret (Cheon et al., ePrint 2016/421, section 3.3). A slot is a sum of coefficients:
`unit` is the standard deviation that this has there. Every step adds a few units. What earlier steps added is taken to
grow as the values do, so relative to what slots hold the variances add up.

This is the error of encryption, not that of the polynomials that approximate activations.
"""

from __future__ import annotations

import math

import numpy as np

from fheinfer.compiler.program import Program
from fheinfer.compiler.views import VIEWS
from fheinfer.crypto.params import ParameterSet
from fheinfer.model import ops
from fheinfer.model.graph import Node

EVAL_MOD_NOISE = 2**16.4
"""Noise of a bootstrap, in units: fitted to bootstraps of sets 1 to 4 at N = 2^11 to 2^14
(docs/explanation/precision.md)."""
SINE_ERROR = 2**-17.3
"""Of a value of 1 in a bootstrap: what the sine of EvalMod bends."""
WORST = 4.5
"""Deviations of the worst of some thousands of values."""


def unit(params: ParameterSet) -> float:
    """Standard deviation of what one rescaling or key switch adds to a slot."""
    return math.sqrt(params.slots * (1 + 2 * (1 << params.log_n) / 3) / 12) / 2.0**params.scale_bits


def expected_bits(program: Program, params: ParameterSet, bootstraps: int = 0) -> float:
    """Bits that the worst output keeps of the largest one, about, under a set.

    Args:
        program: with scales.
        params: the set, of as many slots as the program's.
        bootstraps: how many there are.
    """
    of_unit = unit(params)
    series = any(isinstance(node.op, ops.Chebyshev) for node in program.graph)
    largest = 1.0 if series else params.max_slot
    variance = sum((units(program, node) * of_unit / largest) ** 2 for node in program.graph.nodes)
    variance = variance or of_unit**2  # of encryption: all that a network of sums and views has
    if bootstraps:
        variance += bootstraps * ((EVAL_MOD_NOISE * of_unit) ** 2 + SINE_ERROR**2)
    return -math.log2(WORST * math.sqrt(variance))


def units(program: Program, node: Node) -> float:
    """Standard deviation of what a node adds to its output, in units, over all of its elements."""
    op, constants = node.op, program.constants
    if isinstance(op, ops.ConvTranspose2d):
        # Of `stride` places beside each other, each is reached by another part of the kernel.
        outputs = op.out_channels * math.prod(op.stride)
        return math.sqrt(np.square(constants[op.weight]).sum() / outputs + 1)
    if isinstance(op, ops.Conv2d | ops.Linear):
        weight = constants[op.weight]
        return math.sqrt(np.square(weight).sum() / weight.shape[0] + 1)
    if isinstance(op, ops.Chebyshev):
        coefficients = constants[op.coefficients]
        return math.sqrt(np.square(coefficients * np.arange(len(coefficients))).sum() + 2)
    if isinstance(op, (ops.Add, ops.Input, ops.AddConstant, *VIEWS)):
        return 0.0
    return math.sqrt(2)
