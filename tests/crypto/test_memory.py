"""Memory that runs out inside parallel regions is a typed error, and the process goes on."""

from collections.abc import Callable
from typing import Any

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
