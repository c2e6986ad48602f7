"""Memory and threads as machine, container and shell allow them: read from made-up trees, and from real limits."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from fheinfer import machine
from fheinfer.errors import NotEnoughMemoryError, UsageError

GIB = 1 << 30
MIB = 1 << 20


class Tree:
    """A made-up /proc with control groups beside it."""

    def __init__(self, root: Path) -> None:
        self.proc, self.groups = root / "proc", root / "control groups"  # a space: mountinfo writes it as \040
        (self.proc / "self").mkdir(parents=True)
        self.groups.mkdir()
        self._mounts: list[str] = []
        self._cgroup: list[str] = []

    def write(self, path: str, text: str) -> None:
        file = self.groups / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def group(self, version: int, controllers: str, path: str, *, root: str = "/", folder: str = "") -> None:
        point = str(self.groups / folder).replace(" ", "\\040")
        kind = "cgroup2 cgroup2 rw,nsdelegate" if version == 2 else f"cgroup cgroup rw,{controllers}"
        self._mounts.append(f"31 23 0:28 {root} {point} rw,relatime shared:9 - {kind}")
        self._cgroup.append(f"0::{path}" if version == 2 else f"4:{controllers}:{path}")
        (self.proc / "self/mountinfo").write_text("\n".join(["25 1 0:2 / / rw - ext4 /dev/root rw", *self._mounts]))
        (self.proc / "self/cgroup").write_text("\n".join(self._cgroup))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A machine with 8 GiB free and 8 processors."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return Tree(tmp_path)


def test_a_machine_without_limits(tree: Tree) -> None:
    assert machine.available_memory(tree.proc) == 8 * GIB
    assert machine.usable_threads(tree.proc, {}) == 8
    tree.group(2, "", "/a")
    tree.write("a/memory.max", "max")
    tree.write("a/memory.current", "5")
    tree.write("a/cpu.max", "max 100000")
    assert machine.available_memory(tree.proc) == 8 * GIB
    assert machine.usable_threads(tree.proc, {}) == 8


def test_a_limit_of_version_2_counts_what_the_kernel_can_drop_as_free(tree: Tree) -> None:
    tree.group(2, "", "/a/b")
    tree.write("a/b/memory.max", str(900 * MIB))
    tree.write("a/b/memory.current", str(700 * MIB))
    tree.write("a/b/memory.stat", f"anon {300 * MIB}\ninactive_file {250 * MIB}\nactive_file {100 * MIB}\n")
    assert machine.available_memory(tree.proc) == 550 * MIB
    free = machine.tightest_limit(tree.proc)
    assert free is not None
    assert str(tree.groups / "a/b/memory.max") in free.limit


def test_a_limit_of_a_group_above_counts(tree: Tree) -> None:
    tree.group(2, "", "/a/b/c")
    for name, limit, used in (("a/b/c", "max", 1), ("a/b", str(2 * GIB), 1 * MIB), ("a", str(GIB), 600 * MIB)):
        tree.write(f"{name}/memory.max", limit)
        tree.write(f"{name}/memory.current", str(used))
    assert machine.available_memory(tree.proc) == GIB - 600 * MIB


def test_a_limit_of_version_1_and_its_way_of_saying_none(tree: Tree) -> None:
    tree.group(1, "cpu,cpuacct", "/docker/1", folder="cpu")
    tree.group(1, "memory", "/docker/1", folder="memory")
    tree.write("memory/docker/1/memory.limit_in_bytes", str(3 * GIB))
    tree.write("memory/docker/1/memory.usage_in_bytes", str(GIB))
    tree.write("memory/docker/1/memory.stat", f"inactive_file 7\ntotal_inactive_file {MIB}\ntotal_active_file 0")
    tree.write("memory/memory.limit_in_bytes", str(0x7FFFFFFFFFFFF000))
    tree.write("memory/memory.usage_in_bytes", str(5 * GIB))
    tree.write("cpu/docker/1/cpu.cfs_quota_us", "-1")
    tree.write("cpu/docker/1/cpu.cfs_period_us", "100000")
    assert machine.available_memory(tree.proc) == 2 * GIB + MIB
    assert machine.usable_threads(tree.proc, {}) == 8


@pytest.mark.parametrize("root", ["/docker/1", "/another"])
def test_a_container_that_sees_its_group_as_the_root_of_the_mount(tree: Tree, root: str) -> None:
    tree.group(1, "memory", "/docker/1", root=root, folder="memory")
    tree.write("memory/memory.limit_in_bytes", str(GIB))
    tree.write("memory/memory.usage_in_bytes", str(2 * GIB))  # over the limit: nothing is left, and not less
    assert machine.available_memory(tree.proc) == 0


def test_what_cannot_be_read_sets_no_limit(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.group(2, "", "/../../outside")
    tree.write("memory.max", "many")
    tree.write("cpu.max", "")
    (tree.proc / "self/status").write_bytes(b"\xff\xfe")
    assert machine.available_memory(tree.proc) == 8 * GIB
    assert machine.usable_threads(tree.proc, {}) == 8

    def fails() -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(psutil, "virtual_memory", fails)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert machine.available_memory(tree.proc) is None


@pytest.mark.parametrize(
    "kind, field, flag", [(resource.RLIMIT_AS, "VmSize", "-v"), (resource.RLIMIT_DATA, "VmData", "-d")]
)
def test_limits_of_the_process(tree: Tree, monkeypatch: pytest.MonkeyPatch, kind: int, field: str, flag: str) -> None:
    def limits(asked: int) -> tuple[int, int]:
        return (GIB if asked == kind else resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    monkeypatch.setattr(resource, "getrlimit", limits)
    (tree.proc / "self/status").write_text(f"Name:\tpython\n{field}:\t  1024 kB\n")
    free = machine.tightest_limit(tree.proc)
    assert free is not None
    assert free.bytes == GIB - MIB
    assert f"ulimit {flag}" in free.limit


@pytest.mark.parametrize(
    "quota, threads", [("150000 100000", 2), ("100000 100000", 1), ("5000 100000", 1), ("900000 100000", 8)]
)
def test_a_quota_of_processor_time_is_rounded_up(tree: Tree, quota: str, threads: int) -> None:
    tree.group(2, "", "/a")
    tree.write("a/cpu.max", quota)
    assert machine.usable_threads(tree.proc, {}) == threads


def test_a_quota_of_version_1(tree: Tree) -> None:
    tree.group(1, "cpu,cpuacct", "/a/b", folder="cpu")
    tree.write("cpu/a/cpu.cfs_quota_us", "250000")
    tree.write("cpu/a/cpu.cfs_period_us", "100000")
    assert machine.usable_threads(tree.proc, {}) == 3


@pytest.mark.parametrize("asked, threads", [("3", 3), (" 2,4", 2), ("0", 8), ("99", 8), ("many", 8), ("", 8)])
def test_omp_num_threads(tree: Tree, asked: str, threads: int) -> None:
    assert machine.usable_threads(tree.proc, {"OMP_NUM_THREADS": asked}) == threads


def test_openmp_is_limited_by_a_quota_and_by_nothing_else(tree: Tree) -> None:
    assert machine.openmp_limit(tree.proc, {}) == {}
    tree.group(2, "", "/a")
    tree.write("a/cpu.max", "300000 100000")
    assert machine.openmp_limit(tree.proc, {}) == {"OMP_NUM_THREADS": "3"}
    assert machine.openmp_limit(tree.proc, {"OMP_NUM_THREADS": "1"}) == {}


@pytest.mark.parametrize("asked", [0, -1])
def test_no_threads_are_refused(asked: int) -> None:
    with pytest.raises(UsageError, match="--threads 1 or more"):
        machine.choose_threads(asked)


def test_more_threads_than_can_run_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "allowed_processors", lambda proc=machine.PROC: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said: list[str] = []
    assert [machine.choose_threads(n, said.append) for n in (None, 1, 2)] == [2, 1, 2]
    assert said == []
    assert machine.choose_threads(3, said.append) == 3
    assert "only 2 can run at once" in said[0]


def test_the_refusal_names_the_limit(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.group(2, "", "/a")
    tree.write("a/memory.max", str(900 * MIB))
    tree.write("a/memory.current", "0")
    monkeypatch.setattr(machine.tightest_limit, "__defaults__", (tree.proc,))
    monkeypatch.setattr(machine.available_memory, "__defaults__", (tree.proc,))
    machine.require_memory(900 * MIB, "set 1")
    says = r"needs about 5\.0 GiB .* 0\.9 GiB are free under .*a/memory\.max"
    with pytest.raises(NotEnoughMemoryError, match=says) as caught:
        machine.require_memory(5 * GIB, "set 1")
    assert "raise that limit" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setter", ["prlimit", "the process itself"])
def test_a_real_limit_of_address_space(setter: str) -> None:
    limit = 4 * GIB
    ask = "from fheinfer.machine import require_memory; require_memory(1 << 34, 'it')"
    if setter == "prlimit":
        before = ["prlimit", f"--as={limit}"]
    else:
        before, ask = [], f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit})); {ask}"
    done = subprocess.run([*before, sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.search(r"it needs .* (3\.\d|4\.0) GiB are free under .* \(`ulimit -v`\)", last), last


def test_this_very_machine() -> None:
    free = machine.tightest_limit()
    assert free is not None
    assert 0 < free.bytes <= psutil.virtual_memory().total
    assert 1 <= machine.usable_threads() <= len(os.sched_getaffinity(0))
    assert machine.peak_memory() > MIB


def test_peak_memory_is_that_of_the_process_and_not_of_the_one_that_started_it() -> None:
    large = """
import subprocess, sys
held = b"x" * (300 << 20)
small = "from fheinfer.machine import peak_memory; print(peak_memory())"
subprocess.run([sys.executable, "-c", small], check=True)
"""
    here = str(Path(machine.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", large],
        env={**os.environ, "PYTHONPATH": here},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 5 * MIB < int(done.stdout) < 200 * MIB


def test_peak_memory_grows_with_what_a_process_takes(tmp_path: Path) -> None:
    held = b"x" * (16 << 20)
    assert machine.peak_memory() > len(held)
    assert machine.peak_memory(tmp_path) > len(held), "without a status file, by what the system counts"
