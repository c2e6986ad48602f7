"""What a backend is: everything that depends on who evaluates the ciphertexts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

from fheinfer import _core
from fheinfer.crypto.params import ParameterSet
from fheinfer.errors import ParametersError, PlanError


class KeyMaker(Protocol):
    """Makes evaluation keys from a client's secret; each is the body of one key file."""

    def relinearisation_key(self) -> bytes: ...

    def conjugation_key(self) -> bytes: ...

    def rotation_keys(self, rotations: Sequence[tuple[int, int]]) -> list[bytes]: ...

    def encapsulation_keys(self) -> tuple[bytes, bytes]: ...


class Backend(ABC):
    """One way to evaluate ciphertexts: context, levels, keys and evaluator of a parameter set.

    Backends are stateless objects, registered by name in `fheinfer.crypto.backends`.
    """

    name: ClassVar[str]
    native_chain: ClassVar[bool]
    """Whether chain and polynomials are those of `csrc/ckks`, rather than OpenFHE's."""
    key_heights: ClassVar[int]
    """Heights of rotation keys: 2 where those of CoeffToSlot are taller than all others, else 1."""

    @abstractmethod
    def bootstrap_levels(self, params: ParameterSet) -> int:
        """Levels that a bootstrap consumes above the one that it returns."""

    @abstractmethod
    def bootstrap_input(self, params: ParameterSet) -> int:
        """Lowest level that a bootstrap takes its input at."""

    @abstractmethod
    def two_inputs(self, params: ParameterSet) -> bool:
        """Whether one evaluation serves two inputs, in the real and the imaginary parts of the slots."""

    @abstractmethod
    def key_maker(self, keys: _core.ClientKeys) -> KeyMaker:
        """Makes the evaluation keys of this backend."""

    @abstractmethod
    def evaluator(
        self, context: _core.Context, key_id: str, policy: _core.KeyPolicy
    ) -> _core.NativeEvaluator | _core.OpenFheEvaluator:
        """An evaluator without keys yet."""

    def check(self, params: ParameterSet) -> None:
        """Whether the set's chain fits this backend's bootstrap.

        Raises:
            PlanError: it does not.
        """
        needed = self.bootstrap_levels(params)
        if params.bootstrap_levels != needed:
            raise PlanError(
                f"set {params.name} has {params.bootstrap_levels} levels for a bootstrap and the {self.name} backend's "
                f"takes {needed}; choose a set made for it (`fheinfer sets`)"
            )

    def context(self, params: ParameterSet) -> _core.Context:
        """OpenFHE's context of a set; one per set and process.

        Raises:
            PlanError: parameters that do not fit this backend.
            ParametersError: no primes of these sizes, or less than 128 bits.
        """
        self.check(params)
        sizes = _core.ParameterSet(
            log_n=params.log_n,
            slots=params.slots,
            first_bits=params.first_bits,
            scale_bits=params.scale_bits,
            special_bits=params.special_bits,
            digits=params.digits,
            cts_budget=params.cts_budget,
            stc_budget=params.stc_budget,
            top_level=params.top_level,
            native=self.native_chain,
            allow_insecure=params.insecure,
            composite=params.composite,
        )
        try:
            return _core.Context(sizes)
        except PlanError as error:
            raise ParametersError(str(error)) from None

    def level_model(self, params: ParameterSet) -> _core.LevelModel:
        """Levels for evaluators that work without a context (slots, trace)."""
        return _core.LevelModel(
            top=params.top_level,
            after_bootstrap=params.levels if params.bootstraps else 0,
            bootstrap_min=self.bootstrap_input(params),
            openfhe_series=not self.native_chain,
            composite=params.composite,
        )

    def needs_conjugation(self, params: ParameterSet, *, bootstraps: bool) -> bool:
        """Whether a server needs the conjugation key: for bootstraps, and to take two inputs apart."""
        return bootstraps or self.two_inputs(params)
