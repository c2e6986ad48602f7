"""A Ray cluster as workers need it: how it is joined or started, and how many workers fit."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fheinfer.errors import BackendError, MismatchError, UsageError
from fheinfer.evaluating import environment
from fheinfer.machine import usable_threads
from fheinfer.optional import needs
from fheinfer.service.ray_node import own_version
from fheinfer.storage import shown

LOCAL = "local"
"""The address of a cluster of this machine alone, which lives as long as the workers."""
CONNECT = 10.0
"""Seconds in which the head of a cluster has to answer."""
STORE_BYTES = 512 << 20
"""Of the object store of a cluster of this machine alone; what travels is no larger than a key file."""


def connect(address: str | None) -> tuple[Any, Callable[[], None]]:
    """Ray, connected; and what ends the connection, and the cluster where it was started here. A process that is
    connected already stays as it is.

    Raises:
        UsageError: Ray is not installed, or an address that is none.
        BackendError: nothing answers there, or this machine is no node of that cluster.
    """
    own = address in (None, LOCAL)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if own and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():  # read when Ray is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray would leave one in the home folder
    with needs("ray", "evaluation on several machines"):
        import ray
    if not own and address != "auto":
        _require_answer(str(address))
    if ray.is_initialized():
        return ray, lambda: None
    options: dict[str, Any] = {"address": address}
    files = tempfile.mkdtemp(prefix="fi-ray-") if own else None
    if own:
        options = {"address": LOCAL, "num_cpus": usable_threads(), "object_store_memory": STORE_BYTES}
        options |= {"include_dashboard": False, "_temp_dir": files}

    def end() -> None:
        ray.shutdown()
        if files:
            shutil.rmtree(files, ignore_errors=True)

    try:
        with _environment_of_nodes(), _signals():
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        end()
        raise _no_cluster(address, error) from error
    return ray, end


def _require_answer(address: str) -> None:
    """Asks first whether somebody listens there: Ray would try for minutes, whatever it is told."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise UsageError(f"--ray {shown(address)}: give HOST:PORT of the cluster's head, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> BackendError:
    return BackendError(
        f"no Ray cluster at {shown(address or 'this machine')} ({last_line(error)}); start it with `ray start --head`, "
        "and make this machine a node of it with `ray start --address HOST:PORT`"
    )


def places(processors: Sequence[int], workers: int | None, threads: int | None) -> tuple[int, int]:
    """How many workers there are, and the threads of each.

    Args:
        processors: of each node.
        workers, threads: that were asked for.

    Raises:
        UsageError: they do not fit.
    """
    if not processors:
        raise UsageError(
            "no node of the Ray cluster has a processor to offer; add one: `ray start --address HOST:PORT`"
        )
    if threads is None:
        shared = max(1, sum(processors) // workers) if workers else min(processors)
        threads = min(shared, *processors)
    fit = sum(count // threads for count in processors)
    if fit < (workers or 1):
        raise UsageError(
            f"{workers or 1} workers of {threads} threads do not fit into the Ray cluster, which has "
            f"{', '.join(map(str, processors))} processors; ask for fewer"
        )
    return workers or fit, threads


def processors(ray: Any) -> list[int]:
    """Of every node that is alive and has some."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [count for resources in nodes if (count := int(resources.get("CPU", 0)))]


def require_version(node: str, version: str) -> None:
    """Raises MismatchError where a node has another fheinfer than this."""
    if version != own_version():
        there, here = (f"fheinfer {name}" if name else "one from a folder" for name in (version, own_version()))
        raise MismatchError(
            f"node {node[:8]} of the Ray cluster has {there} and this is {here}; install the same on all"
        )


def last_line(error: BaseException) -> str:
    """The last line of what Ray says, which has the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


@contextmanager
def _environment_of_nodes() -> Iterator[None]:
    """Processes of a cluster that starts here get the environment of an evaluating process."""
    before, theirs = dict(os.environ), environment()
    withheld = {name: value for name, value in before.items() if name not in theirs}
    for name in withheld:
        del os.environ[name]
    os.environ["PYTHONPATH"] = theirs["PYTHONPATH"]
    try:
        yield
    finally:
        os.environ.update(withheld)
        if "PYTHONPATH" in before:
            os.environ["PYTHONPATH"] = before["PYTHONPATH"]
        else:
            del os.environ["PYTHONPATH"]


@contextmanager
def _signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; whoever had it before gets it back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
