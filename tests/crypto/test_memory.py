"""Memory that runs out in parallel regions is a typed error and the process goes on; what a linear map holds."""

import os
from collections.abc import Callable
from typing import Any

import pytest

PROGRAM = """
import resource
from fheinfer import _core
from fheinfer.errors import NotEnoughMemoryError

params = _core.ParameterSet(12, 8, 48, 45, 50, 2, 0, 0, 12, native=True, allow_insecure=True)
context = _core.Context(params)
client = _core.ClientKeys.generate(context, "ab" * 16)
keys, evaluator = _core.NativeKeys(client), _core.NativeEvaluator(context)
evaluator.add_relinearisation_key(keys.relinearisation_key())
evaluator.add_rotation_key(1, keys.rotation_keys([(1, 13)])[0])
x = evaluator.read(client.encrypt([0.5], 12))
for operation in (lambda: evaluator.multiply(x, x), lambda: evaluator.rotate(x, 1), lambda: evaluator.drop_to(x, 11)):
    operation()  # threads and tables are there
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
    kept = []
    try:
        while len(kept) < 10_000:
            kept.append(operation())
    except NotEnoughMemoryError as error:
        print("refused:", error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    kept.clear()
    value = client.decrypt(evaluator.write(operation()), 1)[0]
    print("right" if min(abs(value - 0.25), abs(value - 0.5)) < 1e-3 else value)
"""


def test_a_memory_limit_is_a_typed_error_and_not_the_end_of_the_process(process: Callable[..., Any]) -> None:
    done = process(python=PROGRAM)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 6
    assert all("ran out of memory" in line for line in lines[::2])
    assert lines[1::2] == ["right"] * 3


WORKING = """
import numpy as np
from fheinfer import _core

_core.keep_freed_memory()
params = _core.ParameterSet(14, 8192, 48, 45, 50, 2, 0, 0, 12, native=True, allow_insecure=True)
context = _core.Context(params)
client = _core.ClientKeys.generate(context, "ab" * 16)
keys, evaluator = _core.NativeKeys(client), _core.NativeEvaluator(context)
for k in range(1, 13):
    evaluator.add_rotation_key(k, keys.rotation_keys([(k, 9)])[0])
random = np.random.default_rng(0)
diagonals = [random.uniform(-1, 1, 8) / 500 for _ in range(2 * 2 * 10 * 12)]
map = _core.LinearMap(8, diagonals, inputs=10, outputs=2, first=list(range(12)), row_steps=2, row_stride=12)
xs = [evaluator.read(client.encrypt(random.uniform(-1, 1, 8192), 8)) for _ in range(10)]
sizes = (1 << 14, 9, 7, 2)


def resident(which):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


_core.set_threads(1)
_core.set_working_limit(LIMIT)
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
ys = _core.linear_map(evaluator, xs, map)
print(map.working_bytes(*sizes), resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
@pytest.mark.parametrize("limit", [60 * 10**6, 150 * 10**6, 10**9])
def test_a_linear_map_holds_what_it_says(process: Callable[..., Any], limit: int) -> None:
    """Of ten inputs with twelve baby steps each: 250 MB at once, less where the limit says so."""
    done = process(python=WORKING.replace("LIMIT", str(limit)))
    assert done.code == 0, done.err
    said, held = map(int, done.out.split())
    print(f"limit {limit}: said {said}, held {held}")
    assert said <= limit
    # One thread: each further one has a tile of diagonals of its own.
    assert 0.6 * said < held < 1.1 * said + (16 << 20)
