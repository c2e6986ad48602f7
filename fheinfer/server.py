"""The server: models and sessions. Evaluates plans on ciphertexts with keys that cannot decrypt.

A server holds any number of plans, and opens a session for a plan and one client's evaluation keys. Plans are shared
between sessions; keys are loaded when they are needed, and the least recently used ones leave memory when a limit says
so. Nothing here opens a secret, nothing imports the client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import RLock

from fheinfer import _core
from fheinfer.compiler.plan import RESULT_BITS, Plan
from fheinfer.compiler.plan import load as load_plan
from fheinfer.crypto.artifact import Artifact, request_id, to_bytes
from fheinfer.crypto.ciphertexts import check_count, open_ciphertexts, seal
from fheinfer.crypto.keystore import KeySet, ServerKeys
from fheinfer.crypto.params import key_identity
from fheinfer.errors import MismatchError, UsageError
from fheinfer.model.ops import Resample
from fheinfer.runtime.checkpoints import CheckpointFolder, Pace, checkpoint_bytes
from fheinfer.runtime.constants import ConstantCache
from fheinfer.runtime.executor import StepObserver, Value, execute
from fheinfer.runtime.loaded_keys import KeyCache, LoadedKeys, LoadProgress, key_files, quiet
from fheinfer.storage import require_disk


class Server:
    """Plans and the keys of clients in one process; safe to use from several threads.

    Args:
        memory_limit: bytes that keys, with their tables and working memory, and encoded constants may take together.
            Without one, keys may take what the machine has and constants are not kept.
    """

    def __init__(self, *, memory_limit: int | None = None) -> None:
        lock = RLock()
        self.constants = ConstantCache(self._free, lock)
        self.keys = KeyCache(memory_limit, self.constants, lock)
        self._plans: dict[str, Plan] = {}

    def _free(self) -> int:
        """Bytes that constants may take: what the limit leaves beside keys. Without one, memory stays as predicted."""
        return 0 if self.keys.limit is None else self.keys.limit - self.keys.bytes - self.constants.bytes

    @property
    def plans(self) -> dict[str, Plan]:
        """The plans that were added, by identity."""
        return dict(self._plans)

    def add(self, plan: Plan | Path) -> Plan:
        """Takes a plan, or the file or folder that it is in; one that is there already is shared.

        Raises:
            InputError, ArtifactError, PlanError: see `compiler.plan.load`.
        """
        loaded = load_plan(plan) if isinstance(plan, Path) else plan
        return self._plans.setdefault(loaded.identity, loaded)

    def discard(self, identity: str) -> None:
        """Forgets the plan of that identity, where there is one; sessions that have it go on."""
        self._plans.pop(identity, None)

    def session(
        self, plan: Plan | Path | str, keys: Path | str | KeySet | ServerKeys, *, progress: LoadProgress = quiet
    ) -> Session:
        """A plan under one client's keys, which are loaded now.

        Args:
            plan: a plan, its file or folder, or the identity of one that was added.
            keys: the server folder made by `keygen`, wherever it was copied to, or keys in memory.
            progress: told how far loading is.

        Raises:
            UsageError: no plan of that identity.
            KeyStoreError, ArtifactError: keys that are missing, damaged, or do not serve this plan.
            NotEnoughMemoryError: asked before loading.
        """
        if isinstance(plan, str):
            if plan not in self._plans:
                raise UsageError(f"no plan {plan[:16]!r} on this server; it has {len(self._plans)}")
            found = self._plans[plan]
        else:
            found = self.add(plan)
        identity = key_identity(found.params, found.backend.name)
        keys = Path(keys) if isinstance(keys, str) else keys
        opened = keys if isinstance(keys, ServerKeys) else ServerKeys(keys, identity=identity)
        if opened.manifest.identity != identity:
            raise MismatchError("the keys are of another parameter set or backend than the plan")
        session = Session(self, found, opened)
        with self.keys.use(opened, found, progress):
            pass
        return session


class Session:
    """A plan under one client's evaluation keys. Made by `Server.session`; safe to use from several threads."""

    def __init__(self, server: Server, plan: Plan, keys: ServerKeys) -> None:
        self.plan, self.keys = plan, keys
        self._server = server
        key_files(plan, keys)  # raises where the keys do not serve the plan

    @property
    def two_inputs(self) -> bool:
        """Whether `evaluate_two` can be used."""
        return self.plan.takes_two_inputs

    def evaluate(
        self,
        encrypted: bytes | memoryview,
        *,
        observer: StepObserver | None = None,
        checkpoints: Path | None = None,
        pace: Pace | None = None,
        resume: bool = False,
        keep_layers: bool = False,
    ) -> bytes:
        """Encrypted input to encrypted outputs, both as artifacts.

        Args:
            observer: called after every step; must not ask the server for anything, whose keys it would wait for.
            checkpoints: folder for what a later run with `resume` starts from.
            pace: when it is written; whenever it can be by default.
            keep_layers: also write the ciphertext of every layer there, for precision reports.

        Raises:
            CorruptArtifactError, MismatchError: a damaged input, or one for another key or plan.
            NotEnoughMemoryError: the keys had left memory and there is no room for them now.
            StorageError: no room for the checkpoints; asked before evaluating.
            StoppedError: `pace` was told to stop, and a later run can go on from here.
        """
        server = self._server
        with server.keys.use(self.keys, self.plan) as loaded, server.constants.use(self.plan) as encoded:
            request, x = self._open(loaded, encrypted)
            store = None
            if checkpoints is not None:
                require_disk(checkpoints, checkpoint_bytes(self.plan, keep_layers=keep_layers))
                evaluator = loaded.evaluator
                store = CheckpointFolder(
                    checkpoints,
                    self.plan,
                    self.keys.key_id,
                    request,
                    lambda values, metadata: self._artifact([evaluator.write(value) for value in values], metadata),
                    evaluator.read,
                    pace or Pace(),
                )
                if keep_layers:
                    observer = store.keep_layers(observer)
            y = execute(
                self.plan,
                loaded.evaluator,
                x,
                encoded=encoded,
                observer=observer,
                checkpoints=store,
                resume=resume,
            )
            return self._result(loaded, y, request)

    def evaluate_two(
        self, first: bytes | memoryview, second: bytes | memoryview, *, observer: StepObserver | None = None
    ) -> tuple[bytes, bytes]:
        """As `evaluate`, for two inputs in hardly more time than for one: real and imaginary parts of the same slots.

        Raises:
            UsageError: a plan or backend that takes one at a time (`two_inputs`).
            CorruptArtifactError, MismatchError: as `evaluate`.
        """
        server = self._server
        with server.keys.use(self.keys, self.plan) as loaded, server.constants.use(self._halved, inputs=2) as encoded:
            if not self.two_inputs or not isinstance(loaded.evaluator, _core.NativeEvaluator):
                raise UsageError(f"set {self.plan.params.name} evaluates one input at a time")
            both = _core.TwoInputs(loaded.evaluator)
            (one_request, one), (other_request, other) = (self._open(loaded, x) for x in (first, second))
            joined = tuple(both.join(x, y) for x, y in zip(one, other, strict=True))
            found = execute(self._halved, both, joined, encoded=encoded, observer=observer)
            apart = {name: [both.twice_each(part) for part in value] for name, value in found.items()}
            real = {name: tuple(re for re, _ in parts) for name, parts in apart.items()}
            imaginary = {name: tuple(im for _, im in parts) for name, parts in apart.items()}
            return self._result(loaded, real, one_request), self._result(loaded, imaginary, other_request)

    @cached_property
    def _halved(self) -> Plan:
        """The plan with half its outputs: the real part is half the sum with the conjugate.

        Last steps get arrays of their own, which other steps may share; of a resampling, a product of arrays, one.
        """
        steps, constants = [], dict(self.plan.constants)
        for step in self.plan.steps:
            if step.name in self.plan.outputs:
                factors = {"rows"} if isinstance(step.op, Resample) else set(step.op.tensors)
                names = {role: f"{step.name}/2/{role}" for role in factors}
                constants |= {names[role]: constants[step.op.tensors[role]] / 2 for role in factors}
                step = replace(step, op=replace(step.op, **names))
            steps.append(step)
        return replace(self.plan, steps=tuple(steps), constants=constants)

    def _open(self, loaded: LoadedKeys, encrypted: bytes | memoryview) -> tuple[str, Value]:
        """The request's id, and the ciphertexts of an input for this plan."""
        plan, spec = self.plan, self.plan.client.input
        found = open_ciphertexts(encrypted, plan.params, plan.backend.name, self.keys.key_id, level=spec.level)
        if found.metadata.get("role") != "input" or found.metadata.get("plan") != plan.identity:
            raise MismatchError(
                f"this ciphertext is no input for {plan.model} ({plan.identity[:8]}); name the plan that it was "
                "encrypted for with --plan, or encrypt it again with the client.json of this one"
            )
        check_count(found, spec.ciphertexts)
        x = tuple(loaded.evaluator.read(body) for body in found.bodies)
        for part in x:
            if loaded.evaluator.level(part) != spec.level:
                found_at = loaded.evaluator.level(part)
                raise MismatchError(f"this input is encrypted at level {found_at}, not {spec.level}")
        return request_id(encrypted), x

    def _result(self, loaded: LoadedKeys, outputs: Mapping[str, Value], request: str) -> bytes:
        metadata: dict[str, object] = {"role": "result", "plan": self.plan.identity, "request": request}
        dropped = max(0, loaded.q0_bits - RESULT_BITS)
        evaluator = loaded.evaluator  # the client needs one limb to decrypt, and not all bits of it
        values = [part for name in self.plan.outputs for part in outputs[name]]
        bodies = [evaluator.write(evaluator.drop_to(part, 0), dropped) for part in values]
        return to_bytes(self._artifact(bodies, metadata))

    def _artifact(self, bodies: Sequence[bytes], metadata: dict[str, object]) -> Artifact:
        return seal(self.plan.params, self.plan.backend.name, self.keys.key_id, metadata, bodies)
