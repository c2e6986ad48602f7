"""Ciphertexts of a run on disk: the values to resume from, and every layer where asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fheinfer import _core
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.artifact import MAX_METADATA, Artifact, write
from fheinfer.crypto.ciphertexts import BLOCK, MAX_BLOCK, Ciphertexts, body_bound, open_ciphertexts
from fheinfer.crypto.params import ciphertext_bytes
from fheinfer.errors import FheinferError
from fheinfer.process import StoppedError
from fheinfer.runtime.executor import StepDone, StepObserver, Value
from fheinfer.storage import storage_errors


class Pace:
    """When a run keeps its values, of all times when it could.

    Args:
        every: seconds from one checkpoint to the next at least; 0 keeps all that there can be.
    """

    def __init__(self, every: float = 0.0) -> None:
        self.stop = False
        """Set from any thread: the run keeps its values as soon as it can, and ends there."""
        self._every, self._last = every, time.monotonic()

    def due(self) -> bool:
        """Whether values should be kept now."""
        return self.stop or time.monotonic() >= self._last + self._every

    def kept(self) -> None:
        """Notes that they were.

        Raises:
            StoppedError: the run was told to stop.
        """
        self._last = time.monotonic()
        if self.stop:
            raise StoppedError


class CheckpointFolder:
    """A folder for the checkpoints of one request: one input, key and plan. Anything else in it is passed over.

    Args:
        seal: makes an artifact of ciphertexts and their metadata.
        unseal: makes a ciphertext of its body.
        request: of the input, as the result will name it.
        pace: when values are kept.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        key_id: str,
        request: str,
        seal: Callable[[Sequence[_core.Ciphertext], dict[str, object]], Artifact],
        unseal: Callable[[memoryview], _core.Ciphertext],
        pace: Pace,
    ) -> None:
        self._folder, self._plan, self._key_id, self._request = folder, plan, key_id, request
        self._seal, self._unseal, self._pace = seal, unseal, pace
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, index: int, values: Mapping[str, Value]) -> bool:
        """Keeps the values that are alive after a step, in place of those before, where that is due; False where they
        cannot be kept.

        Raises:
            StoppedError: see `Pace.kept`.
        """
        if not self._pace.due():
            return True
        if block_bytes(self._plan, {name: len(value) for name, value in values.items()}) is None:
            return False
        self._write(BLOCK, index, values)
        self._pace.kept()
        return True

    def latest(self) -> tuple[int, dict[str, Value]] | None:
        """Index of the last step after which values were kept, and the values; None where there are none of this
        request."""
        path, plan = self._folder / BLOCK, self._plan
        if not path.exists():
            return None
        try:
            found = open_ciphertexts(path, plan.params, plan.backend.name, self._key_id)
        except FheinferError:
            return None  # damaged or of another run: start from the beginning
        metadata = found.metadata
        index = metadata.get("index")
        same = metadata.get("plan") == plan.identity and metadata.get("request") == self._request
        if not same or not isinstance(index, int) or not 0 <= index < len(plan.steps):
            return None
        values = self._values(found, plan.alive(index))
        return None if values is None else (index, values)

    def keep_layers(self, observer: StepObserver | None) -> StepObserver:
        """An observer that also writes the ciphertexts of every layer."""

        def observe(done: StepDone) -> None:
            self._write(f"layer_{done.index:03d}.ct", done.index, {done.step.name: done.value}, done.seconds)
            if observer:
                observer(done)

        return observe

    def _values(self, found: Ciphertexts, alive: tuple[str, ...]) -> dict[str, Value] | None:
        """The values by name, where they are exactly those that are alive."""
        listed = found.metadata.get("values")
        try:
            counts = {str(name): int(count) for name, count in listed} if isinstance(listed, list) else {}
        except (TypeError, ValueError):
            return None
        if set(counts) != set(alive) or min(counts.values()) < 1 or sum(counts.values()) != len(found.bodies):
            return None
        bodies = iter(found.bodies)
        return {name: tuple(self._unseal(next(bodies)) for _ in range(count)) for name, count in counts.items()}

    def _write(self, name: str, index: int, values: Mapping[str, Value], seconds: float = 0.0) -> None:
        metadata: dict[str, object] = {
            "role": "checkpoint",
            "index": index,
            "step": self._plan.steps[index].name,
            "values": [[value, len(parts)] for value, parts in values.items()],
            "plan": self._plan.identity,
            "request": self._request,
            "seconds": seconds,
            "created": time.time(),
        }
        parts = [part for value in values.values() for part in value]
        write(self._folder / name, self._seal(parts, metadata))


def block_bytes(plan: Plan, counts: Mapping[str, int]) -> int | None:
    """Bytes of a checkpoint of values, given how many ciphertexts each is in; None where it cannot be kept.

    Those that cannot: more than `MAX_BLOCK`, and values at an odd level of a composite-prime chain, which files do not
    hold.
    """
    levels = plan.value_levels
    if not all(plan.params.encrypts_at(levels[name]) for name in counts):
        return None
    size = sum(count * ciphertext_bytes(plan.params, levels[name]) for name, count in counts.items())
    return size if size <= MAX_BLOCK else None


def checkpoint_bytes(plan: Plan, *, keep_layers: bool) -> int:
    """Of a run at most: a block is written beside the one that it replaces."""
    counts, blocks, due = plan.value_ciphertexts, [0], False
    for index, step in enumerate(plan.steps):
        due = due or bool(step.activation)
        size = block_bytes(plan, {name: counts[name] for name in plan.alive(index)}) if due else None
        if size is not None:
            blocks.append(size)
            due = False
    layers = [body_bound(plan.params, counts[step.name], step.level) + MAX_METADATA for step in plan.steps]
    return 2 * (max(blocks) + MAX_METADATA) + (sum(layers) if keep_layers else 0)
