"""A process forked after fheinfer was loaded would draw its parent's keys again, and hang in a parallel loop."""

from collections.abc import Callable
from typing import Any

PROGRAM = """
import os, signal, sys
import numpy as np
from fheinfer import _core
from fheinfer.errors import BackendError

def params(native):
    return _core.ParameterSet(10, 8, 48, 45, 50, 2, 0, 0, 5, native=native, allow_insecure=True)

context, theirs = _core.Context(params(True)), _core.Context(params(False))
client, openfhe = _core.ClientKeys.generate(context, "ab" * 16), _core.ClientKeys.generate(theirs, "ab" * 16)
keys, evaluator = _core.NativeKeys(client), _core.NativeEvaluator(context)
relinearisation = keys.relinearisation_key()
evaluator.add_relinearisation_key(relinearisation)
other = _core.OpenFheEvaluator(theirs, "ab" * 16)
ciphertext = client.encrypt([0.5], 5)
x, y = evaluator.read(ciphertext), other.read(openfhe.encrypt([0.5], 5))
slots = _core.SlotsEvaluator(8, context.levels)
entries = {
    "context": lambda: _core.Context(params(True)),
    "generate": lambda: _core.ClientKeys.generate(context, "ab" * 16),
    "load": lambda: _core.ClientKeys.load(context, "ab" * 16, client.secret(), b""),
    "encrypt": lambda: client.encrypt([0.5], 5),
    "decrypt": lambda: client.decrypt(ciphertext, 1),
    "OpenFHE's keys": lambda: openfhe.relinearisation_key(),
    "OpenFHE's rotations": lambda: openfhe.rotation_keys([(1, 3)]),
    "native keys": lambda: _core.NativeKeys(client),
    "relinearisation": lambda: keys.relinearisation_key(),
    "rotations": lambda: keys.rotation_keys([(1, 3)]),
    "encapsulation": lambda: keys.encapsulation_keys(),
    "add_keys": lambda: _core.NativeEvaluator(context).add_relinearisation_key(relinearisation),
    "multiply": lambda: evaluator.multiply(x, x),
    "add_plain": lambda: evaluator.add_plain(x, [1.0]),
    "OpenFHE's product": lambda: other.multiply(y, y),
    "export": lambda: _core.export_secret_key(client),
    "slots": lambda: slots.multiply(slots.encrypt([0.5], 3), slots.encrypt([0.5], 3)),
}
for depth in range(2):  # a child, and a child of a child
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if depth == 0:
            client.encrypt([0.5], 5)  # the parent goes on
            print("parent", code)
        os._exit(code) if depth else sys.exit(code)
    signal.alarm(60)
    for name, entry in entries.items():
        try:
            entry()
        except BackendError as error:
            assert "forked" in str(error) and "spawn" in str(error), error
        else:
            os.write(2, f"{name} was not refused\\n".encode())
            os._exit(1)
os._exit(7)
"""


def test_every_entry_of_a_forked_process_is_refused(process: Callable[..., Any]) -> None:
    done = process(python=PROGRAM)
    assert (done.code, done.out.split()) == (7, ["parent", "7"]), done.err
