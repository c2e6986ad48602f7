"""Two plans in one server process: under one secret, and with two clients over many requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.client_spec import FILE_NAME as CLIENT_FILE
from fheinfer.errors import MismatchError
from tests.conftest import TINY, calibrated, random_model
from tests.e2e.conftest import BITS, F64, smaller_weights

TURBO = "insecure-tiny-turbo"


def test_one_secret_serves_two_plans(
    command: Callable[..., Any], tiny_plan: Plan, tiny_plan_folder: Path, tiny_image: F64, tmp_path: Path
) -> None:
    """`keygen --add` makes what the second network lacks; one process evaluates both with the keys of one folder."""
    first = fheinfer.compile(calibrated(random_model("vgg3-tiny-mean", 2), range(1000, 1010)), TINY)
    (tmp_path / "first").mkdir()
    first.save(tmp_path / "first")
    keys = tmp_path / "keys"
    assert command("keygen", tmp_path / "first" / CLIENT_FILE, "-o", keys).code == 0
    secret, before = (keys / "secret" / "secret.key").read_bytes(), key_files(keys)
    x = fheinfer.Client(keys, first.client).encrypt(tiny_image)
    server = fheinfer.Server()
    sessions = [server.session(first, keys / "server")]
    alone = sessions[0].evaluate(x)
    with pytest.raises(MismatchError, match=r"made for vgg3-tiny-mean and lack \d+ .*keygen --add"):
        server.session(tiny_plan, keys / "server")

    added = command("keygen", tiny_plan_folder / CLIENT_FILE, "-o", keys, "--add")
    assert added.code == 0, added.err
    assert (keys / "secret" / "secret.key").read_bytes() == secret
    assert before.items() < key_files(keys).items()  # those that were there stay as they are
    sessions.append(server.session(tiny_plan, keys / "server"))
    assert set(server.plans) == {first.identity, tiny_plan.identity}
    second = fheinfer.Client(keys, fheinfer.ClientSpec.load(keys / f"client-{tiny_plan.identity[:16]}.json"))
    z = second.encrypt(tiny_image)
    for _ in range(2):
        assert sessions[0].evaluate(x) == alone
        found = second.decrypt(sessions[1].evaluate(z), request=z)
        assert fheinfer.precision_bits(fheinfer.run_slots(tiny_plan, tiny_image), found).minimum > BITS
    assert server.session(first, keys / "server").evaluate(x) == alone
    with pytest.raises(MismatchError, match="is no input for resnet8-tiny"):
        sessions[1].evaluate(x)


def key_files(keys: Path) -> dict[str, int]:
    """Times of change by name."""
    return {path.name: path.stat().st_mtime_ns for path in (keys / "server").glob("*.key")}


SERVE = """
import gc, json, sys
from pathlib import Path
import numpy as np, psutil
import fheinfer
from fheinfer import Client, ClientSpec, Server

server, parties = Server(), []
for folder in map(Path, sys.argv[1:]):
    spec = ClientSpec.load(folder)
    session = server.session(folder, folder / "keys" / "server")
    parties.append((Client(folder / "keys", spec), session, np.zeros(spec.input_shape)))
seen = {}
for number in range(1, 201):
    client, session, x = parties[number % 2]
    request = client.encrypt(x)
    outputs = client.decrypt(session.evaluate(request), request=request)
    assert outputs.shape == (10,)
    if number in (20, 200):
        gc.collect()
        seen[number] = psutil.Process().memory_info().rss
print(json.dumps(seen))
"""


def test_memory_after_200_requests_is_that_after_20(process: Callable[..., Any], tmp_path: Path) -> None:
    """Two plans and two clients, each with keys of its own; every request is encrypted, evaluated and decrypted."""
    folders = []
    for seed in (1, 2):
        plan = fheinfer.compile(calibrated(smaller_weights("resnet8-tiny-turbo", seed), range(1000, 1010)), TURBO)
        folder = tmp_path / str(seed)
        folder.mkdir()
        plan.save(folder)
        fheinfer.keygen(plan.client, folder / "keys")
        folders.append(folder)
    result = process(*folders, python=SERVE)
    assert result.code == 0, result.err
    seen = json.loads(result.out)
    assert seen["200"] - seen["20"] < 10 * 2**20, seen
