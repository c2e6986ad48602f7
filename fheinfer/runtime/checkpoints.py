"""Ciphertexts of a run on disk: the last finished block to resume from, and every layer where asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from fheinfer import _core
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.steps import Step
from fheinfer.crypto.artifact import MAX_METADATA, Artifact, open_ciphertext, write
from fheinfer.crypto.params import ciphertext_bytes
from fheinfer.errors import FheinferError
from fheinfer.runtime.executor import StepDone, StepObserver
from fheinfer.storage import storage_errors

BLOCK = "block.ct"


class CheckpointFolder:
    """A folder for the checkpoints of one request: one input, key and plan. Anything else in it is passed over.

    Args:
        seal: makes an artifact of a ciphertext and its metadata.
        unseal: makes a ciphertext of an artifact's body.
        request: of the input, as the result will name it.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        key_id: str,
        request: str,
        seal: Callable[[_core.Ciphertext, dict[str, object]], Artifact],
        unseal: Callable[[bytes | memoryview], _core.Ciphertext],
    ) -> None:
        self._folder, self._plan, self._key_id, self._request = folder, plan, key_id, request
        self._seal, self._unseal = seal, unseal
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, index: int, step: Step, value: _core.Ciphertext) -> None:
        """Keeps the value after this step, in place of the one before."""
        self._write(BLOCK, index, step, value)

    def latest(self) -> tuple[int, _core.Ciphertext] | None:
        """Index of the last step that was kept, and its value; None where there is none of this request."""
        path, plan = self._folder / BLOCK, self._plan
        if not path.exists():
            return None
        try:
            found = open_ciphertext(path, plan.params, plan.backend.name, self._key_id)
        except FheinferError:
            return None  # damaged or of another run: start from the beginning
        metadata = found.metadata
        index = metadata.get("index")
        same = metadata.get("plan") == plan.identity and metadata.get("request") == self._request
        if not same or not isinstance(index, int) or not 0 <= index < len(plan.steps):
            return None
        return index, self._unseal(found.body)

    def keep_layers(self, observer: StepObserver | None) -> StepObserver:
        """An observer that also writes the ciphertext of every layer."""

        def observe(done: StepDone) -> None:
            self._write(f"layer_{done.index:03d}.ct", done.index, done.step, done.value, done.seconds)
            if observer:
                observer(done)

        return observe

    def _write(self, name: str, index: int, step: Step, value: _core.Ciphertext, seconds: float = 0.0) -> None:
        metadata: dict[str, object] = {
            "role": "checkpoint",
            "index": index,
            "step": step.name,
            "plan": self._plan.identity,
            "request": self._request,
            "seconds": seconds,
            "created": time.time(),
        }
        write(self._folder / name, self._seal(value, metadata))


def checkpoint_bytes(plan: Plan, *, keep_layers: bool) -> int:
    """Of a run at most: a block is written beside the one that it replaces."""
    sizes = [ciphertext_bytes(plan.params, step.level) + MAX_METADATA for step in plan.steps]
    return 2 * max(sizes) + (sum(sizes) if keep_layers else 0)
