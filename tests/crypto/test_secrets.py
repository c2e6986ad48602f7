"""Secrets are overwritten before their memory is given back: looked for in the memory of another process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import gc, sys
from fheinfer import _core

context = _core.Context(_core.ParameterSet(12, 8, 48, 45, 50, 2, 1, 1, 15, native=True, allow_insecure=True))
client = _core.ClientKeys.generate(context, "ab" * 16)
keys = _core.NativeKeys(client)
keys.relinearisation_key(), keys.rotation_keys([(1, 3)])
client.decrypt(client.encrypt([0.25], 3), 1)
print(client.secret().hex(), flush=True)
if sys.argv[1] == "drop":
    del client, keys
    gc.collect()
print("done", flush=True)
sys.stdin.readline()
"""


def occurrences(pid: int, pattern: bytes) -> int:
    """Of a pattern in the writable memory of a process."""
    count = 0
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if not found or "[v" in line:
                continue
            start, end = (int(v, 16) for v in found.groups())
            try:
                memory.seek(start)
                count += memory.read(end - start).count(pattern)
            except (OSError, ValueError):
                continue
    return count


@pytest.mark.parametrize("kept", [True, False])
def test_no_secret_stays_in_memory(kept: bool) -> None:
    """As 64-bit words: in single bytes it has been an object of Python, which nobody can wipe."""
    arguments = [sys.executable, "-c", PROGRAM, "keep" if kept else "drop"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        secret = np.frombuffer(bytes.fromhex(child.stdout.readline()), np.int8)
        assert child.stdout.readline() == "done\n"
        words = secret.astype("<i8")
        try:
            found = [occurrences(child.pid, words[at : at + 64].tobytes()) for at in (64, 2048, 4000)]
        except PermissionError:
            pytest.skip("this machine does not let a process look into its child")
        finally:
            child.stdin.write("\n")
            child.stdin.close()
    assert all(found) if kept else not any(found), found
