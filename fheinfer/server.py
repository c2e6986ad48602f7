"""The server: evaluates a network on ciphertexts with keys that cannot decrypt. Opens nothing but the server folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fheinfer import _core
from fheinfer.artifact import MAX_META, Artifact, Kind, open_ciphertext, to_bytes, write
from fheinfer.compiler import compile
from fheinfer.compiler.plan import RESULT_BITS, Step, serving
from fheinfer.errors import FheinferError, MismatchError, UsageError
from fheinfer.keystore import Manifest, ServerKeys, rotation_file
from fheinfer.params import ciphertext_bytes, parameter_set
from fheinfer.policy import core_policy
from fheinfer.runtime.executor import Observer, execute
from fheinfer.runtime.memory import require_memory
from fheinfer.storage import require_disk, storage_errors
from fheinfer.weights import Weights

Progress = Callable[[str, float], None]
"""Called with what is being loaded ("keys", "tables") and the fraction done."""


class Server:
    """A network under one client's evaluation keys.

    Args:
        keys: the server folder made by `keygen`; it may have been copied from elsewhere.
        weights: trained weights; they never leave this process.
        progress: told how far loading is.

    Raises:
        KeyStoreError, ArtifactError: keys that are missing, damaged, or do not serve this network.
        NotEnoughMemoryError: asked before loading.
    """

    def __init__(self, keys: Path, weights: Weights, *, progress: Progress | None = None) -> None:
        manifest = Manifest.load(keys / "manifest.json")
        self.params = parameter_set(manifest.set_name)
        self.keys = ServerKeys(keys, self.params.identity)
        self.plan = compile(weights, self.params, keys=manifest.policy)
        self._check_manifest()
        if not self.params.insecure:
            require_memory(self.plan.prediction.peak_memory, f"set {self.params.name}")
        context, policy = _core.Context(self.params.core()), core_policy(self.plan.keys)
        self._q0 = context.q[0]
        self._evaluator: _core.NativeEvaluator | _core.OpenFheEvaluator = (
            _core.NativeEvaluator(context, policy)
            if self.params.native
            else _core.OpenFheEvaluator(context, self.keys.key_id, policy)
        )
        self._load(progress or (lambda what, fraction: None))

    def evaluate(
        self,
        picture: bytes | memoryview,
        *,
        observer: Observer | None = None,
        checkpoints: Path | None = None,
        resume: bool = False,
        keep_layers: bool = False,
    ) -> bytes:
        """Encrypted picture to encrypted logits, as artifacts.

        Args:
            observer: called after every step.
            checkpoints: folder for what a later run with `resume` starts from.
            keep_layers: also write every layer's ciphertext there, for precision reports.

        Raises:
            CorruptArtifactError, MismatchError: a damaged input, or one for another key or network.
            StorageError: no room for the checkpoints; asked before evaluating.
        """
        x = self._read(picture)
        store = None
        if checkpoints is not None:
            require_disk(checkpoints, self._checkpoint_bytes(keep_layers))
            store = CheckpointFolder(checkpoints, self, hashlib.sha256(picture).hexdigest())
        watch = store.keep(observer) if store and keep_layers else observer
        return self._result(execute(self.plan, self._evaluator, x, observer=watch, checkpoints=store, resume=resume))

    def evaluate_two(
        self, first: bytes | memoryview, second: bytes | memoryview, *, observer: Observer | None = None
    ) -> tuple[bytes, bytes]:
        """As `evaluate`, for two pictures in hardly more time than for one: real and imaginary parts of the same slots.

        Raises:
            UsageError: the parameter set bootstraps, which keeps real parts only (`ParameterSet.two_pictures`).
            CorruptArtifactError, MismatchError: as `evaluate`.
        """
        if not isinstance(self._evaluator, _core.NativeEvaluator) or not self.params.two_pictures:
            raise UsageError(f"set {self.params.name} evaluates one picture at a time")
        both = _core.TwoInputs(self._evaluator)
        # What is real is half the sum with the conjugate: the last layer makes halves.
        plan, last = self.plan, self.plan.steps[-1]
        assert last.op in ("linear", "conv2d"), last.op
        halves = {name: plan.constants[name] / 2 for name in last.weights.values()}
        x = both.join(self._read(first), self._read(second))
        y = execute(replace(plan, constants={**plan.constants, **halves}), both, x, observer=observer)
        one, other = both.twice_each(y)
        return self._result(one), self._result(other)

    def _read(self, picture: bytes | memoryview) -> _core.Ciphertext:
        found = open_ciphertext(picture, self.params, self.keys.key_id)
        if found.meta.get("role") != "input" or found.meta.get("plan") != self.plan.client.plan:
            raise MismatchError(
                "this ciphertext is not a picture encrypted for this network; encrypt it again with the "
                "weights the server runs"
            )
        return self._evaluator.read(found.payload)

    def _result(self, y: _core.Ciphertext) -> bytes:
        spec = self.plan.client
        meta: dict[str, object] = {
            "role": "result",
            "plan": spec.plan,
            "network": spec.network,
            "outputs": spec.outputs,
            "output_scale": spec.output_scale,
        }
        y = self._evaluator.drop_to(y, 0)  # the client needs one limb to decrypt, and not all bits of it
        return to_bytes(self._artifact(y, meta, dropped=max(0, self._q0.bit_length() - RESULT_BITS)))

    def _artifact(self, value: _core.Ciphertext, meta: dict[str, object], dropped: int = 0) -> Artifact:
        payload = self._evaluator.write(value, dropped)
        return Artifact(Kind.CIPHERTEXT, self.params.identity, self.keys.key_id, meta, payload)

    def _checkpoint_bytes(self, keep_layers: bool) -> int:
        """Of a run at most: a block is written beside the one it replaces."""
        sizes = [ciphertext_bytes(self.params, step.level) + MAX_META for step in self.plan.steps]
        return 2 * max(sizes) + (sum(sizes) if keep_layers else 0)

    def _check_manifest(self) -> None:
        missing = [need for need in self.plan.rotations if self._key_for(need) is None]
        if missing:
            raise MismatchError(
                f"these {self.plan.keys} keys were made for {self.keys.manifest.network} and lack {len(missing)} "
                f"rotations that {self.plan.network} needs; run `fheinfer keygen --network {self.plan.network}`"
            )

    def _key_for(self, need: tuple[int, int]) -> tuple[int, int] | None:
        return serving(self.keys.manifest.rotations, *need)

    def _load(self, progress: Progress) -> None:
        evaluator, read_key = self._evaluator, self.keys.read
        evaluator.add_relinearisation_key(read_key("relinearisation.key", Kind.RELINEARISATION_KEY))
        if self.plan.bootstraps or self.params.two_pictures:
            evaluator.add_conjugation_key(read_key("conjugation.key", Kind.CONJUGATION_KEY))
        if self.plan.bootstraps:
            evaluator.add_encapsulation_keys(
                read_key("to_sparse.key", Kind.ENCAPSULATION_TO_SPARSE),
                read_key("to_dense.key", Kind.ENCAPSULATION_TO_DENSE),
            )
        rotations = {key for need in self.plan.rotations if (key := self._key_for(need))}
        for done, (rotation, limbs) in enumerate(sorted(rotations)):
            progress("keys", done / len(rotations))
            evaluator.add_rotation_key(rotation, read_key(rotation_file(rotation, limbs), Kind.ROTATION_KEY))
        progress("keys", 1.0)
        if self.plan.bootstraps:
            progress("tables", 0.0)
            evaluator.prepare_bootstrap()
            progress("tables", 1.0)


class CheckpointFolder:
    """Ciphertexts of a run on disk: the last finished block to resume from, and every layer where asked for.

    A checkpoint is of one picture, key and plan; anything else in the folder is passed over.
    """

    def __init__(self, folder: Path, server: Server, picture: str) -> None:
        self._folder, self._server, self._picture = folder, server, picture
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, index: int, step: Step, value: _core.Ciphertext) -> None:
        self._write("block.ct", index, step, value)

    def latest(self) -> tuple[int, _core.Ciphertext] | None:
        path = self._folder / "block.ct"
        if not path.exists():
            return None
        try:
            found = open_ciphertext(path, self._server.params, self._server.keys.key_id)
        except FheinferError:
            return None  # damaged or of another run: start from the beginning
        index, steps = found.meta.get("index"), self._server.plan.steps
        same = found.meta.get("plan") == self._server.plan.client.plan and found.meta.get("picture") == self._picture
        if not same or not isinstance(index, int) or not 0 <= index < len(steps):
            return None
        return index, self._server._evaluator.read(found.payload)

    def keep(self, observer: Observer | None) -> Observer:
        """An observer that also writes each layer's ciphertext."""

        def watch(done):  # type: ignore[no-untyped-def]
            self._write(f"layer_{done.index:03d}.ct", done.index, done.step, done.value, done.seconds)
            if observer:
                observer(done)

        return watch

    def _write(self, name: str, index: int, step: Step, value: _core.Ciphertext, seconds: float = 0.0) -> None:
        meta: dict[str, object] = {
            "role": "checkpoint",
            "index": index,
            "step": step.name,
            "plan": self._server.plan.client.plan,
            "picture": self._picture,
            "seconds": seconds,
            "created": time.time(),
        }
        write(self._folder / name, self._server._artifact(value, meta))
