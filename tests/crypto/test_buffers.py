"""Buffers of keys are pinned while an evaluator uses them, and long calls let other threads run."""

from __future__ import annotations

import gc
import mmap
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from fheinfer import _core
from fheinfer.errors import BackendError, CorruptArtifactError, UsageError

TAG = "ab" * 16


@cache
def rig() -> tuple[_core.Context, _core.ClientKeys, _core.NativeKeys]:
    context = _core.Context(_core.ParameterSet(13, 8, 48, 45, 50, 2, 1, 1, 15, native=True, allow_insecure=True))
    client = _core.ClientKeys.generate(context, TAG)
    return context, client, _core.NativeKeys(client)


@cache
def bodies() -> dict[int | _core.OneKey, bytes]:
    keys = rig()[2]
    sparse, dense = keys.encapsulation_keys()
    (rotation,) = keys.rotation_keys([(1, 16)])
    return {
        "relinearisation": keys.relinearisation_key(),
        "conjugation": keys.conjugation_key(),
        1: rotation,
        "to_sparse": sparse,
        "to_dense": dense,
    }


def everything() -> list[tuple[int | _core.OneKey, _core.Buffer]]:
    return [*bodies().items()]


def test_a_key_in_use_cannot_be_resized_or_closed() -> None:
    context, client, _ = rig()
    evaluator, body = _core.NativeEvaluator(context), bytearray(bodies()[1])
    mapped = mmap.mmap(-1, len(bodies()["relinearisation"]))
    mapped[:] = bodies()["relinearisation"]
    evaluator.add_rotation_key(1, body)
    evaluator.add_relinearisation_key(memoryview(mapped))
    with pytest.raises(BufferError):
        body.append(0)
    with pytest.raises(BufferError):
        body.clear()
    with pytest.raises(BufferError):
        mapped.close()
    y = evaluator.rotate(evaluator.read(client.encrypt(np.arange(8.0), 5)), 1)
    np.testing.assert_allclose(client.decrypt(evaluator.write(y), 8), np.roll(np.arange(8.0), -1), atol=1e-6)
    del evaluator, y
    gc.collect()
    body.append(0)
    mapped.close()


def test_a_key_that_was_refused_is_let_go() -> None:
    evaluator, body = _core.NativeEvaluator(rig()[0]), bytearray(bodies()[1])
    body[-1] = 255
    with pytest.raises(CorruptArtifactError):
        evaluator.add_rotation_key(1, body)
    body.append(0)


def test_what_was_added_before_a_refusal_stays_pinned() -> None:
    evaluator, bodies_ = _core.NativeEvaluator(rig()[0]), [bytearray(bodies()[1]) for _ in range(2)]
    with pytest.raises(UsageError, match="height"):
        evaluator.add_keys([(1, bodies_[0]), (1, bodies_[1])])
    with pytest.raises(BufferError):
        bodies_[0].append(0)


def test_many_keys_in_one_call_are_as_one_by_one() -> None:
    context, client, _ = rig()
    at_once, one_by_one = _core.NativeEvaluator(context), _core.NativeEvaluator(context)
    at_once.add_keys(everything())
    one_by_one.add_relinearisation_key(bodies()["relinearisation"])
    one_by_one.add_conjugation_key(bodies()["conjugation"])
    one_by_one.add_rotation_key(1, bodies()[1])
    one_by_one.add_encapsulation_keys(bodies()["to_sparse"], bodies()["to_dense"])
    x = client.encrypt(np.linspace(-1, 1, 8), 7)
    results = [
        [e.write(e.multiply(e.read(x), e.read(x))), e.write(e.rotate(e.read(x), 1))] for e in (at_once, one_by_one)
    ]
    assert results[0] == results[1]


def test_what_is_no_key_is_refused() -> None:
    context = rig()[0]
    for evaluator in (_core.NativeEvaluator(context), _core.OpenFheEvaluator(context, TAG)):
        with pytest.raises(UsageError, match="no evaluation key is named"):
            evaluator.add_keys([("relinearization", b"")])  # type: ignore[list-item]
        with pytest.raises(CorruptArtifactError):
            evaluator.add_keys([("to_sparse", b""), ("to_dense", b"")])
    with pytest.raises(UsageError, match="together"):
        _core.NativeEvaluator(context).add_keys([("to_sparse", bodies()["to_sparse"])])
    with pytest.raises(BackendError, match="relinearisation"):
        _core.NativeEvaluator(context).add_keys([("relinearisation", bodies()["to_sparse"])])


@cache
def ciphertext() -> bytes:
    return rig()[1].encrypt(np.ones(8), 15)


@cache
def loaded() -> _core.NativeEvaluator:
    evaluator = _core.NativeEvaluator(rig()[0])
    evaluator.add_keys(everything())
    return evaluator


@cache
def value() -> _core.Ciphertext:
    return loaded().read(ciphertext())


LONG: dict[str, Callable[[], Any]] = {
    "generate": lambda: _core.ClientKeys.generate(rig()[0], TAG),
    "load": lambda: _core.ClientKeys.load(rig()[0], TAG, rig()[1].secret(), b""),
    "encrypt": lambda: rig()[1].encrypt(np.ones(8), 15),
    "decrypt": lambda: rig()[1].decrypt(ciphertext(), 8),
    "read": lambda: loaded().read(ciphertext()),
    "write": lambda: loaded().write(value()),
    "native keys": lambda: _core.NativeKeys(rig()[1]),
    "relinearisation": lambda: rig()[2].relinearisation_key(),
    "conjugation": lambda: rig()[2].conjugation_key(),
    "rotations": lambda: rig()[2].rotation_keys([(3, 16)]),
    "encapsulation": lambda: rig()[2].encapsulation_keys(),
    "add_plain": lambda: loaded().add_plain(value(), np.ones(8)),
    "multiply_plain": lambda: loaded().multiply_plain(value(), np.ones(8)),
    "multiply": lambda: loaded().multiply(value(), value()),
    "add_keys": lambda: _core.NativeEvaluator(rig()[0]).add_keys(everything()),
    "export of a secret": lambda: _core.export_secret_key(rig()[1]),
    "export of a ciphertext": lambda: _core.export_ciphertext(rig()[0], TAG, ciphertext()),
}


@pytest.mark.parametrize("name", LONG)
def test_other_threads_run_during_a_long_call(name: str) -> None:
    """The interpreter is told to switch threads only where one gives way: another gets its turn inside the call."""
    LONG[name]()  # what it needs is made
    before = sys.getswitchinterval()
    deadline = time.monotonic() + 20  # a short call can be over before the other thread is awake
    while time.monotonic() < deadline:
        woken, ran = threading.Event(), list[int]()

        def wait(woken: threading.Event = woken, ran: list[int] = ran) -> None:
            woken.wait()
            ran.append(1)

        thread = threading.Thread(target=wait)
        thread.start()
        sys.setswitchinterval(1000)
        try:
            woken.set()
            LONG[name]()
            during = bool(ran)
        finally:
            sys.setswitchinterval(before)
        thread.join()
        if during:
            return
    pytest.fail("no other thread ran in 20 seconds of calls")
