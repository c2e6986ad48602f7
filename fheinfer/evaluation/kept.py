"""What approximations of ReLU leave of a network's outputs, measured on a few examples: by this a plan keeps bits."""

from __future__ import annotations

import math
from dataclasses import replace

from fheinfer.approx.fidelity import REFERENCES
from fheinfer.compiler.activations import polynomials_of
from fheinfer.data.labelled import DataSet
from fheinfer.errors import PlanError
from fheinfer.evaluation.accuracy import evaluate, evaluate_polynomials
from fheinfer.model.model import MAX_BITS, Model
from fheinfer.model.ops import Prelu, Relu
from fheinfer.progress import ProgressCallback, silent

EXAMPLES = 64
"""Looked at at most, as far as `_VALUES` allow."""
_VALUES = 1 << 24


def with_kept_bits(model: Model, examples: DataSet, progress: ProgressCallback = silent) -> Model:
    """Returns the model with the bits that its outputs keep by each of `fidelity.REFERENCES`, in the median.

    That says what a plan keeps where ReLUs are all that is approximated: nothing is measured of a network with other
    activations, or whose ranges no plan can have.

    Args:
        model: with ranges.
        examples: as `calibrate` takes them.
        progress: called with the approximations that are done.
    """
    graph = model.graph
    approximated = [node.op for node in graph.activations if not node.op.polynomial]
    if not approximated or not all(isinstance(op, Relu | Prelu) for op in approximated):
        return replace(model, kept_bits={})
    count = min(EXAMPLES, max(2, _VALUES // sum(map(math.prod, graph.shapes.values()))))
    few = examples.spread(count).fitted(graph.input_shape)
    clear = evaluate(model, None, few, "clear").outputs
    kept: dict[str, float] = {}
    for done, name in enumerate(REFERENCES):
        progress(done, len(REFERENCES))
        try:
            program = polynomials_of(model, name)
        except PlanError:
            return replace(model, kept_bits={})
        bits = evaluate_polynomials(model, program, few, clear=clear).pytorch_bits
        worst = min((bits[output].median for output in graph.outputs if output in bits), default=0.0)
        kept[name] = min(max(worst, 0.0), MAX_BITS) if math.isfinite(worst) else 0.0
    progress(len(REFERENCES), len(REFERENCES))
    return replace(model, kept_bits=kept)
