"""Polynomials that approximate activation functions, each with its degrees, levels, error and range."""

from fheinfer.approx.forms import Activation
from fheinfer.approx.registry import activation, names

__all__ = ["Activation", "activation", "names"]
