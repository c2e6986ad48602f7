"""What a step costs in operations, and at which heights: a trace that can be moved to another level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fheinfer import _core

Counts = dict[int, int]
"""Limbs -> how many."""


@dataclass(frozen=True)
class Work:
    """Counts of `_core.TraceReport`, by the limbs they were done on.

    rotation_keys: rotation -> limbs its key needs; polynomials: degree -> counts by limbs of its input.
    """

    rotation_keys: Counts
    key_switches: Counts
    hoisted_key_switches: Counts
    mod_ups: Counts
    plain_multiplications: Counts
    encoded_values: Counts
    rescales: Counts
    products: Counts
    polynomials: dict[int, Counts]
    bootstraps: int

    @classmethod
    def of(cls, report: _core.TraceReport) -> Work:
        """What a trace counted."""
        return cls(**{name: getattr(report, name) for name in cls.__dataclass_fields__})

    @classmethod
    def of_bootstrap(cls, count: int = 1) -> Work:
        """Bootstraps and nothing else."""
        return cls({}, {}, {}, {}, {}, {}, {}, {}, {}, count)

    def thinner(self, part: float) -> Work:
        """The same step with this part of its diagonals."""

        def left(counts: Counts) -> Counts:
            return {limbs: round(part * n) for limbs, n in counts.items()}

        return replace(
            self,
            plain_multiplications=left(self.plain_multiplications),
            encoded_values=left(self.encoded_values),
        )

    def higher(self, levels: int) -> Work:
        """The same step on so many more limbs; fewer, where negative."""
        return self.on(lambda limbs: limbs + levels)

    def on(self, place: Callable[[int], int]) -> Work:
        """The same step on other limbs: `place` says on how many, by how many there are now."""

        def moved(counts: Counts) -> Counts:
            out: Counts = {}
            for limbs, n in counts.items():
                out[place(limbs)] = out.get(place(limbs), 0) + n
            return out

        return Work(
            {rotation: place(limbs) for rotation, limbs in self.rotation_keys.items()},
            moved(self.key_switches),
            moved(self.hoisted_key_switches),
            moved(self.mod_ups),
            moved(self.plain_multiplications),
            moved(self.encoded_values),
            moved(self.rescales),
            moved(self.products),
            {degree: moved(counts) for degree, counts in self.polynomials.items()},
            self.bootstraps,
        )
