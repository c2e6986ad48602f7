"""Evaluation keys in a server's memory: loaded when needed, pinned while in use, given back by least recent use."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, RLock

from fheinfer import _core
from fheinfer.compiler.plan import Plan, base_memory
from fheinfer.crypto.key_policy import core_policy
from fheinfer.crypto.keystore import ServerKeys
from fheinfer.crypto.manifest import (
    CONJUGATION,
    RELINEARISATION,
    TO_DENSE,
    TO_SPARSE,
    evaluation_keys,
    rotations_of,
)
from fheinfer.errors import MismatchError, NotEnoughMemoryError
from fheinfer.machine import available_memory, require_memory
from fheinfer.runtime.constants import ConstantCache

LoadProgress = Callable[[str, float], None]
"""Called with what is being loaded ("keys", "tables") and the fraction done."""


_ONE_OF_ITS_KIND: dict[str, _core.OneKey] = {
    RELINEARISATION: "relinearisation",
    CONJUGATION: "conjugation",
    TO_SPARSE: "to_sparse",
    TO_DENSE: "to_dense",
}


def quiet(what: str, fraction: float) -> None:
    """Progress that nobody follows."""


class LoadedKeys:
    """One client's keys in an evaluator; several plans may use them at once.

    Keys are used where they are in their mapped files, which stay mapped for as long as the evaluator lives.
    """

    def __init__(self, keys: ServerKeys, plan: Plan) -> None:
        self.key_id = keys.key_id
        policy = core_policy(keys.manifest.policy)
        context = plan.backend.context(plan.params)
        self.q0_bits = context.q[0].bit_length()
        self.evaluator = plan.backend.evaluator(context, keys.key_id, policy)
        self.users = 0
        self.bytes = 0
        self._loaded: set[str] = set()
        self._prepared = False

    def lacks(self, plan: Plan, keys: ServerKeys) -> bool:
        """Whether something has to be loaded before this plan can run."""
        return bool(set(key_files(plan, keys)) - self._loaded) or (plan.bootstraps > 0 and not self._prepared)

    def load(self, plan: Plan, keys: ServerKeys, progress: LoadProgress) -> None:
        """Loads what the plan needs and is not there; nobody may be evaluating meanwhile.

        Args:
            keys: those that the plan is asked for with: there may be more of them than when this was made.

        Raises:
            MismatchError: keys that the plan needs and this client did not make.
            KeyStoreError, ArtifactError, StorageError: see `ServerKeys.read`.
        """
        missing = [name for name in key_files(plan, keys) if name not in self._loaded]
        read: list[tuple[int | _core.OneKey, memoryview]] = []
        for done, (name, body) in enumerate(keys.read_all(missing)):
            progress("keys", done / len(missing))
            read.append((_core_name(name), body))
        self.evaluator.add_keys(read)
        self._loaded |= set(missing)
        progress("keys", 1.0)
        if plan.bootstraps and not self._prepared:
            progress("tables", 0.0)
            self.evaluator.prepare_bootstrap()
            self._prepared = True
            progress("tables", 1.0)
        self.bytes = max(self.bytes, memory_needed(plan, keys))


def _core_name(name: str) -> int | _core.OneKey:
    """What the core calls a key file's content: the only key of its kind, or the rotation."""
    if name in _ONE_OF_ITS_KIND:
        return _ONE_OF_ITS_KIND[name]
    ((rotation, _),) = rotations_of([name])
    return rotation


def key_files(plan: Plan, keys: ServerKeys) -> list[str]:
    """Names of the key files that a plan needs of a client's.

    Raises:
        MismatchError: some are not there, or the plan is for another kind of rotation keys.
    """
    if keys.manifest.policy not in plan.keys:
        raise MismatchError(
            f"these are {keys.manifest.policy} keys and {plan.model} was compiled for {', '.join(plan.keys)} ones: "
            "make keys of their own in another folder with `fheinfer keygen`, or compile it with a higher memory limit"
        )
    return keys.manifest.keys_for(plan.keys[keys.manifest.policy].rotations, evaluation_keys(plan.client))


def shared_by(plan: Plan, keys: ServerKeys) -> str:
    """Plans with the same value can use one evaluator.

    It is of one set of keys in one folder: whoever claims the key id and the checksums of somebody else adds no key to
    an evaluator that others use. And rotation keys of one height lie beside each other in it: a linear map takes the
    lowest that is tall enough for each of its rotations, and all of those have to be of one height. Keys of CoeffToSlot
    are apart from the others.
    """
    manifest = keys.manifest
    chosen = manifest.select(plan.keys[manifest.policy].rotations).use
    low = sorted({limbs for _, limbs in chosen if limbs <= plan.params.levels + 1})
    which = low if plan.backend.key_heights == 2 else chosen
    return f"{keys.place} {keys.key_id} {manifest.files[RELINEARISATION].sha256} {which}"


def memory_needed(plan: Plan, keys: ServerKeys) -> int:
    """Bytes that a client's keys, tables and working memory for a plan are predicted to take."""
    return plan.keys[keys.manifest.policy].peak_memory - base_memory(plan.params)


class KeyCache:
    """The keys of several clients within a byte limit.

    Args:
        limit: bytes that they may take by prediction, together with constants; None for what the machine has.
        constants: what is given back where keys need room and none of them is idle.
        lock: the lock of the constants.
    """

    def __init__(self, limit: int | None, constants: ConstantCache, lock: RLock) -> None:
        self.limit = limit
        self._constants = constants
        self._entries: OrderedDict[str, LoadedKeys] = OrderedDict()
        self._changed = Condition(lock)
        self._loading: dict[str, int] = {}  # name -> bytes that it will take; 0 while it waits for room

    @property
    def bytes(self) -> int:
        """Predicted bytes of all that is loaded or being loaded."""
        with self._changed:
            return sum(self._size(name) for name in self._entries.keys() | self._loading.keys())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def key_ids(self) -> frozenset[str]:
        """Whose keys are loaded."""
        with self._changed:
            return frozenset(entry.key_id for entry in self._entries.values())

    @contextmanager
    def use(self, keys: ServerKeys, plan: Plan, progress: LoadProgress = quiet) -> Iterator[LoadedKeys]:
        """The keys, loaded and pinned for as long as the context is open; callable from several threads.

        Raises:
            MismatchError: keys that the plan needs and this client did not make.
            NotEnoughMemoryError: they do not fit into the limit, or into what is free here.
            KeyStoreError, ArtifactError, StorageError: see `ServerKeys.read`.
        """
        entry = self._pinned(keys, plan, progress)
        try:
            yield entry
        finally:
            with self._changed:
                entry.users -= 1
                self._changed.notify_all()

    def drop(self, key_id: str) -> bool:
        """Gives the keys of a client back, once nobody uses them; False where they are not loaded."""
        with self._changed:
            found = [name for name, entry in self._entries.items() if entry.key_id == key_id]
            for name in found:
                while (entry := self._entries.get(name)) and (entry.users or name in self._loading):
                    self._changed.wait()
                self._entries.pop(name, None)
            return bool(found)

    def _pinned(self, keys: ServerKeys, plan: Plan, progress: LoadProgress) -> LoadedKeys:
        key_files(plan, keys)  # a plan that these keys cannot serve changes nothing
        name = shared_by(plan, keys)
        with self._changed:
            while name in self._loading:
                self._changed.wait()
            entry = self._entries.get(name)
            if entry is not None and not entry.lacks(plan, keys):
                self._entries.move_to_end(name)
                entry.users += 1
                return entry
            self._loading[name] = 0
            try:
                while entry is not None and entry.users:  # nobody may use an evaluator while keys are added to it
                    self._changed.wait()
                needed = memory_needed(plan, keys)
                self._make_room(name, needed, plan)
                self._loading[name] = needed
            except BaseException:
                del self._loading[name]
                self._changed.notify_all()
                raise
        try:
            loaded = entry or LoadedKeys(keys, plan)
            loaded.load(plan, keys, progress)
        except BaseException:
            with self._changed:
                self._entries.pop(name, None)  # half of the keys is no use
                del self._loading[name]
                self._changed.notify_all()
            raise
        with self._changed:
            self._entries[name] = loaded
            self._entries.move_to_end(name)
            loaded.users += 1
            del self._loading[name]
            self._changed.notify_all()
        return loaded

    def _make_room(self, name: str, needed: int, plan: Plan) -> None:
        """Gives back the least recently used keys that nobody uses, then constants, until `needed` bytes fit.

        In this order, because keys are back in half a second, and every evaluation without constants takes longer.
        """
        if self.limit is not None and needed > self.limit:
            raise NotEnoughMemoryError(
                f"{plan.model} on set {plan.params.name} needs {needed / 1e9:.2f} GB for one client's keys and "
                f"this server may take {self.limit / 1e9:.2f} GB; raise --memory, or make minimal rotation keys"
            )
        more = needed - self._size(name)
        given_back = 0  # which the process may keep: the system does not see that it is free
        while more > self._room(given_back, plan):
            idle = [k for k, e in self._entries.items() if k != name and not e.users and k not in self._loading]
            if idle:
                given_back += self._entries.pop(idle[0]).bytes
                continue
            constants = self._constants.bytes
            given_back += self._constants.drop()
            if self._constants.bytes < constants:
                continue
            if self.limit is not None and self._somebody_else_is_busy(name):
                self._changed.wait()
            else:
                break
        if given_back:
            _core.give_back_memory()  # else the process keeps it, scattered: 2.5 GB of 10 with twenty clients of turbo
            given_back = 0
        if self.limit is not None and more > self.limit - self.bytes - self._constants.bytes:
            raise NotEnoughMemoryError(
                f"{plan.model} on set {plan.params.name} needs {more / 1e9:.2f} GB more for one client's keys, and "
                f"others have what this server may take, {self.limit / 1e9:.2f} GB; raise --memory, or try again later"
            )
        if not plan.params.insecure:
            require_memory(more - given_back, f"{plan.model} on set {plan.params.name}")

    def _room(self, given_back: int, plan: Plan) -> float:
        """Bytes that keys may take more than they do: what the limit leaves, and what the machine has."""
        by_limit = math.inf if self.limit is None else self.limit - self.bytes - self._constants.bytes
        free = None if plan.params.insecure else available_memory()
        return by_limit if free is None else min(by_limit, free + given_back)

    def _somebody_else_is_busy(self, name: str) -> bool:
        """Whether others use or load keys: when they are done, there may be room."""
        return any(e.users for k, e in self._entries.items() if k != name) or any(
            size for k, size in self._loading.items() if k != name
        )

    def _size(self, name: str) -> int:
        entry = self._entries.get(name)
        return max(entry.bytes if entry else 0, self._loading.get(name, 0))
