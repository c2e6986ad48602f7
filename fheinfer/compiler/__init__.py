"""Model and parameter set -> plan."""

from fheinfer.compiler.pipeline import compile

__all__ = ["compile"]
