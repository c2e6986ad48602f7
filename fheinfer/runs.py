"""The files of runs on this machine: one folder each, locked while it is used, removed when it is done."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType

from fheinfer.errors import UsageError
from fheinfer.storage import storage_errors


class Run:
    """The files of one run, in a folder of its own that no other run uses meanwhile.

    A run that fails before it has something to resume from removes what it made; `finish` removes the rest. Only files
    that a run writes are ever deleted.
    """

    FILES = ("input.ct", "result.ct", "block.ct", "layer_*.ct", "inputs/*.ct", "results/*.ct")

    def __init__(self, root: Path, name: str, *, resume: bool) -> None:
        self.resume = resume
        self._made = [path for path in (root / name, *(root / name).parents) if not path.exists()]
        for number in count(1):
            self.folder = root / (name if number == 1 else f"{name}-{number}")
            lock = _locked(self.folder)
            if lock is not None:
                self._lock = lock
                break
            if resume:
                raise UsageError(f"{self.folder}: that run is going on in another process; wait for it")
        if not resume:
            self._clear()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        worth = any(next(self.folder.glob(pattern), None) for pattern in ("block.ct", "results/*.ct"))
        if error is not None and not worth:
            self.finish()
        os.close(self._lock)

    def finish(self) -> None:
        """Removes the files of the run, and folders that are empty then."""
        self._clear()
        with suppress(OSError):
            (self.folder / ".lock").unlink(missing_ok=True)
            for path in (self.folder, *self._made[1:]):
                path.rmdir()

    def _clear(self) -> None:
        for pattern in self.FILES:
            for path in self.folder.glob(pattern):
                with suppress(OSError):
                    path.unlink()
        for inner in ("inputs", "results"):
            with suppress(OSError):
                (self.folder / inner).rmdir()


def _locked(folder: Path) -> int | None:
    """Descriptor of the lock of a folder, which is made where it is not there; None where another run has it."""
    path = folder / ".lock"
    while True:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # whoever had it finished meanwhile, and removed the folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)  # of a folder that was removed


def run_name(label: str, plan: str, key_id: str, *contents: bytes) -> str:
    """The same name for the same inputs under the same plan and key, so that `--resume` finds the run."""
    digest = hashlib.sha256(f"{plan}{key_id}".encode())
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return f"{label}-{digest.hexdigest()[:16]}"
