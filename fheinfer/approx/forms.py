"""What an activation is: polynomials, and how they become a function of one number, of two, or of a window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fheinfer.approx.composition import F64, Composition
from fheinfer.errors import RangeError, UsageError

Function = Callable[[F64], F64]
OVERSHOOT = 1e-6
"""How far outside its range an input may be before it is refused, as in simulation."""


@dataclass(frozen=True)
class Band:
    """Where a composite sign is valid: within `error` for width <= |x| <= 1. Closer to zero it changes sign."""

    width: float
    error: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Activation(ABC):
    """An approximation by polynomials that an evaluator of ciphertexts can compute.

    Calling it refuses inputs outside [-bound, bound]; `evaluate` does not, and shows what an encrypted run, which
    cannot know, would compute.

    Attributes:
        name: the name by which `fheinfer.approx.activation` returns it.
        polynomials: Chebyshev series on [-1, 1], applied to input / scale.
        scale: the first polynomial sees input / scale; the factor is folded into the layer before and costs no level.
        bound: largest |input| for which it is valid; infinite where nothing is approximated, or every input is allowed.
        function: the function that it approximates, in words.
        source: the paper, and where in it.
    """

    name: str
    polynomials: Composition
    scale: float = 1.0
    bound: float = 1.0
    function: str
    source: str
    arity: ClassVar[int] = 1

    @property
    @abstractmethod
    def form(self) -> str:
        """The formula, with p1, p2, ... for the polynomials."""

    @property
    def degrees(self) -> tuple[int, ...]:
        """The degrees of the polynomials, first applied first."""
        return self.polynomials.degrees

    @property
    def levels(self) -> int:
        """Levels consumed in the native evaluator: ceil(log2(degree + 1)) per polynomial, and its products."""
        return self._levels(self.polynomials.levels)

    @property
    def openfhe_levels(self) -> int:
        """Levels consumed if the polynomials go through OpenFHE's EvalChebyshevSeries."""
        return self._levels(self.polynomials.openfhe_levels)

    def _levels(self, polynomials: int) -> int:
        return polynomials

    @abstractmethod
    def evaluate(self, *inputs: ArrayLike) -> F64:
        """Evaluates it at any inputs, also outside the range, where the values are worthless."""

    @abstractmethod
    def exact(self, *inputs: ArrayLike) -> F64:
        """Evaluates the function that is approximated."""

    def __call__(self, *inputs: ArrayLike) -> F64:
        """Evaluates it element-wise, on valid inputs only.

        Raises:
            UsageError: another number of operands than `arity`.
            RangeError: an input that is NaN or outside [-bound, bound].
        """
        if len(inputs) != self.arity:
            raise UsageError(f"{self.name} takes {self.arity} operand(s), not {len(inputs)}")
        self._check(*(np.asarray(x, dtype=np.float64) for x in inputs))
        return self.evaluate(*inputs)

    def _check(self, *inputs: F64) -> None:
        for x in inputs:
            self._require(np.abs(x), self.bound, "an input")

    def _require(self, sizes: F64, bound: float, what: str) -> None:
        if sizes.size and not (sizes <= bound * (1 + OVERSHOOT)).all():  # false for NaN, too
            raise RangeError(
                f"{what} of {self.name} is as large as {float(np.max(sizes)):.4g}, and it is valid up to {bound:.4g}; "
                "scale the input down by its range, or use a composite with a guard band"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Polynomial(Activation):
    """One polynomial: p(x / scale)."""

    target: Function

    @property
    def form(self) -> str:
        return "p1(x)" if self.scale == 1 else f"p1(x / {self.scale:g})"

    def evaluate(self, *inputs: ArrayLike) -> F64:
        return self.polynomials(np.asarray(inputs[0], dtype=np.float64) / self.scale)

    def exact(self, *inputs: ArrayLike) -> F64:
        return self.target(np.asarray(inputs[0], dtype=np.float64))


@dataclass(frozen=True, eq=False, kw_only=True)
class Quadratic(Polynomial):
    """a x^2 + b x + c, evaluated as one square: sqrt(a) and b / (2 sqrt(a)) go into the layer before. One level."""

    def _levels(self, polynomials: int) -> int:
        return 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Signed(Activation):
    """An activation built on a composite sign, whose `polynomials` these are. Factors of one half cost no level."""

    band: Band | None = None

    def _composed(self, x: str) -> str:
        """The nested call in words: p2(p1(x)) for two polynomials."""
        for number in range(1, len(self.degrees) + 1):
            x = f"p{number}({x})"
        return x

    def _levels(self, polynomials: int) -> int:
        return polynomials + 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Gate(Signed):
    """ReLU as x (1 + sign(x)) / 2. The half and the one go into the last polynomial; the product takes a level."""

    @property
    def form(self) -> str:
        return f"x (1 + {self._composed('x')}) / 2"

    @property
    def step(self) -> Composition:
        """(1 + sign) / 2: the factor that an evaluator multiplies x by."""
        return self.polynomials.affine(0.5, 0.5)

    def evaluate(self, *inputs: ArrayLike) -> F64:
        x = np.asarray(inputs[0], dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            return x * self.step(x)

    def exact(self, *inputs: ArrayLike) -> F64:
        return np.maximum(np.asarray(inputs[0], dtype=np.float64), 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Maximum(Signed):
    """max(a, b) as (a + b) / 2 + (a - b) sign(a - b) / 2. The difference a - b has to stay in [-bound, bound]."""

    arity: ClassVar[int] = 2

    @property
    def form(self) -> str:
        return f"(a + b) / 2 + (a - b) {self._composed('a - b')} / 2"

    def evaluate(self, *inputs: ArrayLike) -> F64:
        a, b = (np.asarray(x, dtype=np.float64) for x in inputs)
        with np.errstate(over="ignore", invalid="ignore"):
            return (a + b) / 2 + (a - b) * self.polynomials.affine(0.5, 0.0)(a - b)

    def exact(self, *inputs: ArrayLike) -> F64:
        a, b = (np.asarray(x, dtype=np.float64) for x in inputs)
        return np.maximum(a, b)

    def _check(self, *inputs: F64) -> None:
        self._require(np.abs(inputs[0] - inputs[1]), self.bound, "a difference of operands")


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Signed):
    """The maximum of a window of k x k values, the last axis of the input, by a tournament of `Maximum`s.

    The output of a round may exceed the largest of its operands by the error of one comparison, and differences in the
    next round must not exceed 1. So inputs of either sign may be as large as `bound` = (1 - 2 (rounds - 1) error) / 2.
    """

    kernel: int
    pair: Maximum

    @property
    def rounds(self) -> int:
        """Rounds of the tournament."""
        return rounds(self.kernel)

    @property
    def form(self) -> str:
        return f"{self.rounds} rounds of max, {self.kernel * self.kernel - 1} comparisons; max = {self.pair.form}"

    def _levels(self, polynomials: int) -> int:
        return self.rounds * (polynomials + 1)

    def evaluate(self, *inputs: ArrayLike) -> F64:
        x = self._windows(inputs[0])
        values = [x[..., i] for i in range(x.shape[-1])]
        while len(values) > 1:
            larger = [self.pair.evaluate(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = larger + values[2 * len(larger) :]
        return values[0]

    def exact(self, *inputs: ArrayLike) -> F64:
        return np.asarray(self._windows(inputs[0]).max(axis=-1), dtype=np.float64)

    def _windows(self, x: ArrayLike) -> NDArray[np.float64]:
        windows = np.asarray(x, dtype=np.float64)
        if windows.ndim == 0 or windows.shape[-1] != self.kernel**2:
            raise UsageError(
                f"{self.name} takes windows of {self.kernel**2} values in the last axis, not {windows.shape}"
            )
        return windows


def rounds(kernel: int) -> int:
    """Returns the rounds of a tournament between kernel^2 values: 2 for 2x2, 4 for 3x3."""
    return (kernel * kernel - 1).bit_length()
