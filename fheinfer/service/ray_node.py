"""What runs on a node of a Ray cluster: an actor with one local worker, and files of its own that it was sent.

Nodes share no disk and nothing here sees a secret. `ray_workers` makes the actor, sends files and follows events.
"""

from __future__ import annotations

import fcntl
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fheinfer.crypto.ciphertexts import BLOCK
from fheinfer.errors import FheinferError, StorageError
from fheinfer.evaluating import Event
from fheinfer.optional import needs
from fheinfer.service.workers import LocalWorkers, StoppedError, Task
from fheinfer.storage import PRIVATE_FOLDER, atomic_write, make_folder, require_disk

PREFIX = "fheinfer-ray-"
SPARE = 1 << 30
"""Bytes of disk that are left free, as long as there are files of other clients to delete."""


class NodeWorker:
    """One worker of `RayWorkers`, in an actor.

    Args:
        session: of the driver, whose workers share a folder on each node: keys arrive once per node.
        threads, memory: of the evaluating process, as of `LocalWorkers`.
    """

    def __init__(self, session: str, threads: int, memory: int | None) -> None:
        with needs("ray", "a worker on a node"):
            import ray
        self._node = str(ray.get_runtime_context().get_node_id())
        root = Path(tempfile.gettempdir())
        remove_abandoned(root)
        self._folder = root / f"{PREFIX}{session}-{self._node[:16]}"
        self._lock = hold_folder(self._folder)
        self._workers = LocalWorkers(1, threads=threads, memory=memory)
        self._ended = threading.Event()

    def about(self) -> tuple[str, str]:
        """The node, and the version of fheinfer there."""
        return self._node, own_version()

    def hold(self) -> None:
        """Returns when the worker ends; who waits for it learns when the worker, or its node, dies."""
        self._ended.wait()

    def has(self, folder: str) -> bool:
        """Whether a folder is here, whole. Those that were asked for least recently are the first to be deleted."""
        with suppress(FileNotFoundError):
            os.utime(self._folder / folder)
            return True
        return False

    def begin(self, folder: str, size: int) -> None:
        """Makes room for a folder with files of so many bytes, which come next.

        Raises:
            StorageError: the disk of this node is too small for it.
        """
        part = self._part(folder)
        shutil.rmtree(part, ignore_errors=True)
        make_folder(part, PRIVATE_FOLDER)
        others = sorted(self._folder.glob("keys/*-*"), key=lambda path: path.stat().st_mtime)
        for other in (path for path in others if path.suffix != ".part"):
            with suppress(StorageError):
                require_disk(part, size + SPARE)
                return
            shutil.rmtree(other, ignore_errors=True)
        require_disk(part, size)

    def put(self, folder: str, name: str, data: bytes) -> None:
        """Writes a file of a folder that was begun."""
        atomic_write(self._part(folder) / name, [data])

    def finish(self, folder: str) -> None:
        """Gives a folder its name: it is whole."""
        with suppress(OSError):  # it is there: another worker of this node got it, too
            self._part(folder).rename(self._folder / folder)

    def evaluate(self, job: Mapping[str, Any], inputs: list[bytes], block: bytes | None) -> Iterator[Event]:
        """Events of `fheinfer.worker` as they happen, checkpoints among them; at the end the results, or that it
        stopped, or an error.

        Args:
            job: "id", "plan" and "keys" (folders here), "key_id", "seconds", "checkpoints" (whether to keep some).
            block: the checkpoint to go on from.
        """
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            work = Path(name)
            pairs = [(work / f"input{i}.ct", work / f"result{i}.ct") for i in range(len(inputs))]
            for (file, _), data in zip(pairs, inputs, strict=True):
                atomic_write(file, [data])
            if block is not None:
                atomic_write(work / BLOCK, [block])
            task = Task(
                job["id"],
                self._folder / job["plan"],
                self._folder / job["keys"],
                job["key_id"],
                *pairs[0],
                work if job["checkpoints"] else None,
                job["seconds"],
                *pairs[1:],
            )
            yield from self._followed(task, work / BLOCK)
            if all(result.exists() for _, result in pairs):
                yield {"event": "results", "results": [result.read_bytes() for _, result in pairs]}

    def cancel(self, job: str) -> None:
        """Ends a job soon."""
        self._workers.cancel(0, job)

    def forget(self, key_id: str) -> None:
        """Keys leave memory and disk."""
        for path in self._folder.glob(f"keys/{key_id}-*"):
            shutil.rmtree(path, ignore_errors=True)
        self._workers.forget(key_id)

    def memory(self) -> int:
        """Bytes that the evaluating process has resident."""
        return self._workers.memory()

    def close(self, grace: float) -> None:
        """Stops; what runs may send a checkpoint first."""
        self._workers.close(grace)

    def leave(self) -> None:
        """Removes the files on this node."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._ended.set()

    def _part(self, folder: str) -> Path:
        path = self._folder / folder
        return path.with_name(f"{path.name}.{os.getpid()}.part")

    def _followed(self, task: Task, block: Path) -> Iterator[Event]:
        """Runs a task in a thread of its own and yields what happens."""
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

        def run() -> None:
            try:
                self._workers.run(0, task, events.put)
            except StoppedError:
                events.put({"event": "stopped"})
            except FheinferError as error:
                events.put({"event": "error", "kind": type(error).__name__, "message": str(error)})
            except Exception as error:  # a fault of ours, which must not look like a hang
                events.put({"event": "error", "kind": "BackendError", "message": f"{type(error).__name__}: {error}"})
            finally:
                events.put(None)

        threading.Thread(target=run, name="fheinfer-task", daemon=True).start()
        sent = _changed(block)
        while (event := events.get()) is not None:
            if (now := _changed(block)) != sent:  # every `CHECKPOINT_SECONDS`, and where it stops
                sent = now
                yield {"event": "checkpoint", "block": block.read_bytes()}
            yield event


def own_version() -> str:
    """The version of fheinfer that is installed; "" where it runs from a folder."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fheinfer")
    except PackageNotFoundError:
        return ""


def hold_folder(folder: Path) -> int:
    """Makes a folder of ours where there is none and says that it is used, until this process ends.

    Raises:
        StorageError: it cannot be made, or is another user's.
    """
    while True:
        make_folder(folder, PRIVATE_FOLDER)
        if folder.lstat().st_uid != os.geteuid():
            raise StorageError(f"{folder} belongs to another user; set TMPDIR to a folder of your own on this node")
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), (folder / ".lock").stat()):
                break
        os.close(lock)  # it was taken for abandoned, and removed meanwhile
    for inner in ("keys", "plans"):
        make_folder(folder / inner, PRIVATE_FOLDER)
    return lock


def remove_abandoned(root: Path) -> None:
    """Deletes what workers left that were killed: folders that no process holds."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder / ".lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
