"""What is fixed before set="auto" chooses a parameter set, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from fheinfer.crypto.generated import DIGITS, LEVELS, MAX_SCALE_BITS, RINGS, SCALE_ABOVE_RING
from fheinfer.crypto.params import Chain
from fheinfer.errors import UsageError

BITS = 8.0
"""Bits of the largest output that encryption keeps, unless more are asked for: far more than a class needs."""
BOOTSTRAP_RING = 16
"""log2 of the only ring whose modulus has room for a bootstrap."""
NAMES = {
    "log_n": "ring",
    "chain": "chain",
    "digits": "digits",
    "scale_bits": "scale",
    "levels": "levels",
    "log_slots": "slots",
    "bootstraps": "bootstraps",
}
"""Field of `Wanted` -> the choice as `fheinfer plan --why` calls it."""
_WHOLE = ("log_n", "digits", "scale_bits", "levels", "log_slots")


def require_number(name: str, value: object, example: float) -> None:
    """Refuses what is neither a number nor None.

    Raises:
        UsageError: it is something else.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
        raise UsageError(f"{name} is a number, and {value!r} is none; leave it out, or give one such as {example:g}")


def _require_within(what: str, value: int | None, least: int, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        raise UsageError(f"{what}: {least} to {most}, not {value!r}")


@dataclass(frozen=True)
class Wanted:
    """What is fixed before the choice; None leaves it open.

    bits        that encryption keeps of the largest output
    memory      bytes of a server, at most
    log_n       log2 of the ring dimension, 12 to 16
    chain       "plain" or "composite"
    digits      of key switching
    scale_bits  of the scale
    levels      of the chain, or those that a bootstrap returns
    log_slots   log2 of the slots
    bootstraps  whether there are any

    Raises:
        UsageError: a value that no set has, or two that no set has together; it names what there is.
    """

    bits: float = BITS
    memory: float | None = None
    log_n: int | None = None
    chain: Chain | None = None
    digits: int | None = None
    scale_bits: int | None = None
    levels: int | None = None
    log_slots: int | None = None
    bootstraps: bool | None = None

    def __post_init__(self) -> None:
        require_number("bits", self.bits, 8)
        if not 0 < self.bits < math.inf:
            raise UsageError(f"bits that encryption keeps are more than 0, not {self.bits!r}; 8 are enough for a class")
        require_number("memory", self.memory, 6e9)
        if self.memory is not None and not 1 <= self.memory < math.inf:
            raise UsageError(f"memory is a number of bytes, and {self.memory!r} is none; 6 GB are 6e9")
        if self.chain not in (None, *MAX_SCALE_BITS):
            raise UsageError(f"the chain is one of {', '.join(MAX_SCALE_BITS)}, not {self.chain!r}")
        if self.bootstraps not in (None, True, False):
            raise UsageError(f"bootstraps are True, False or None, not {self.bootstraps!r}")
        _require_within("log2 of the ring dimension", self.log_n, RINGS[0], RINGS[-1])
        _require_within("the number of levels", self.levels, *LEVELS)
        _require_within("the number of digits", self.digits, *DIGITS)
        ring = f" at N = 2^{self.log_n}" if self.log_n else ""
        chain = f" on a {self.chain} chain" if self.chain else ""
        least = (self.log_n or RINGS[0]) + SCALE_ABOVE_RING
        _require_within(
            f"bits of the scale{ring}{chain}", self.scale_bits, least, MAX_SCALE_BITS[self.chain or "plain"]
        )
        _require_within(f"log2 of the slots{ring}", self.log_slots, 1, (self.log_n or RINGS[-1]) - 1)
        if self.chain == "composite" and self.levels is not None and self.levels % 2:
            raise UsageError(f"a composite-prime chain has an even number of levels, not {self.levels}")
        if self.bootstraps and (self.chain == "composite" or self.log_n not in (None, BOOTSTRAP_RING)):
            raise UsageError(f"only plain chains at N = 2^{BOOTSTRAP_RING} bootstrap; leave ring and chain open")
        for field in _WHOLE:
            if (value := getattr(self, field)) is not None:
                object.__setattr__(self, field, int(value))  # NumPy's integers are none for JSON

    @property
    def fixed(self) -> tuple[str, ...]:
        """The choices that were made by whoever asks, as `fheinfer plan --why` calls them."""
        return tuple(name for field, name in NAMES.items() if getattr(self, field) is not None)

    @property
    def as_asked(self) -> str:
        """What errors add about them."""
        return f" with {', '.join(self.fixed)} as asked" if self.fixed else ""

    def allows(self, memory: int) -> bool:
        """Whether a server may take so many bytes."""
        return self.memory is None or memory <= self.memory


ANYTHING = Wanted()
