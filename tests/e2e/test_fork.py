"""A process that is forked after the core was used: refused by every entry point, and at once.

It would have its parent's generator of randomness, so two users would get the same keys, and it would hang in OpenMP.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer import errors
from fheinfer.crypto.client_spec import FILE_NAME as CLIENT_FILE

FORK = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
import fheinfer
from fheinfer import Client, ClientSpec, Server
from fheinfer.crypto import keygen
from fheinfer.errors import FheinferError

folder, keys = Path(sys.argv[1]), Path(sys.argv[2])
spec, x = ClientSpec.load(folder), None
client = Client(keys, spec)
x = np.zeros(spec.input_shape)
request = client.encrypt(x)
session = Server().session(folder, keys / "server")
result = session.evaluate(request)
attempts = {
    "keygen": lambda: fheinfer.keygen(spec, folder / "forked"),
    "generate": lambda: keygen.generate(spec),
    "new_secret": lambda: keygen.new_secret(spec),
    "client": lambda: Client(keys, spec),
    "encrypt": lambda: client.encrypt(x),
    "decrypt": lambda: client.decrypt(result),
    "evaluate": lambda: session.evaluate(request),
    "session": lambda: Server().session(folder, keys / "server"),
}
said = {}
for name, attempt in attempts.items():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            attempt()
            answer = ["nothing", ""]
        except BaseException as error:
            answer = [type(error).__name__, str(error)]
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    text = os.read(reading, 1 << 16).decode()
    said[name] = json.loads(text) if text else ["killed", str(status)]
    os.close(reading)
assert client.decrypt(session.evaluate(request), request=request).shape == (10,)  # the parent goes on
print(json.dumps({"said": said, "left": (folder / "forked").exists()}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_refused_everywhere(
    process: Callable[..., Any], tiny_plan: Any, tiny_keys: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "plan"
    folder.mkdir()
    tiny_plan.save(folder)
    assert (folder / CLIENT_FILE).is_file()
    result = process(folder, tiny_keys, python=FORK, timeout=400)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    for name, (kind, message) in found["said"].items():
        assert issubclass(getattr(errors, kind, type(None)), errors.FheinferError), (name, kind, message)
        assert "fork" in message, (name, message)
    assert len(found["said"]) == 8
    assert not found["left"]
    assert fheinfer.Client(tiny_keys, tiny_plan.client).can_decrypt
