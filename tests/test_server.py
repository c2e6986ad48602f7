"""Sessions: several plans and clients in one process, from several threads, within a byte limit."""

from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import fheinfer
from fheinfer import storage
from fheinfer.crypto.artifact import Kind, from_bytes, request_id, to_bytes
from fheinfer.errors import MismatchError, NotEnoughMemoryError, StorageError, UsageError
from fheinfer.evaluation.metrics import precision_bits
from fheinfer.local import infer_many
from fheinfer.model.builder import GraphBuilder
from fheinfer.model.model import Model
from fheinfer.model.ops import Conv2d, Power, Resample
from fheinfer.runs import Run
from fheinfer.runtime.executor import StepDone
from fheinfer.runtime.loaded_keys import memory_needed
from tests.conftest import F64, calibrated, random_model, tiny_pixels

TURBO = "insecure-tiny-turbo"
BITS = 4.0
"""Bits that quadratics of random weights keep of the worst output on these chains, at least: 5.9 to 18.9 in 36 runs."""


@dataclass(frozen=True)
class Tenant:
    """A client with keys of its own and an input of its own."""

    client: fheinfer.Client
    keys: Path
    plan: fheinfer.Plan
    x: F64

    @property
    def encrypted(self) -> bytes:
        return self.client.encrypt(self.x)

    def agrees(self, result: bytes, request: bytes) -> bool:
        found = self.client.decrypt(result, request=request)
        return precision_bits(fheinfer.run_slots(self.plan, self.x), found).minimum > BITS


@pytest.fixture(scope="module")
def plans() -> list[fheinfer.Plan]:
    """Two networks on one set, and one on another."""
    seeds = range(2000, 2020)
    quadratic = [calibrated(random_model("resnet8-tiny-turbo", seed), seeds) for seed in (1, 2)]
    relu = calibrated(random_model("resnet8-tiny", 3), seeds)
    return [*(fheinfer.compile(model, TURBO) for model in quadratic), fheinfer.compile(relu, "insecure-tiny")]


@pytest.fixture(scope="module")
def tenants(plans: list[fheinfer.Plan], tmp_path_factory: pytest.TempPathFactory) -> list[Tenant]:
    """Four clients: two of the first plan, one of each of the others."""
    out = []
    for number, plan in enumerate((plans[0], plans[0], plans[1], plans[2])):
        folder = tmp_path_factory.mktemp("tenant")
        fheinfer.keygen(plan.client, folder / "keys")
        x = fheinfer.normalise(tiny_pixels(2000 + number), plan.client.mean, plan.client.std)
        out.append(Tenant(fheinfer.Client(folder / "keys", plan.client), folder / "keys", plan, x))
    return out


def test_plans_are_shared_and_clients_are_apart(tenants: list[Tenant]) -> None:
    server = fheinfer.Server()
    sessions = [server.session(t.plan, t.keys / "server") for t in tenants]
    assert len(server.plans) == 3
    assert sessions[0].plan is sessions[1].plan
    for tenant, session in zip(tenants, sessions, strict=True):
        encrypted = tenant.encrypted
        assert tenant.agrees(session.evaluate(encrypted), encrypted)
    with pytest.raises(MismatchError, match="another key"):
        sessions[0].evaluate(tenants[1].encrypted)
    with pytest.raises(MismatchError):
        sessions[2].evaluate(tenants[0].encrypted)


def test_several_threads_and_clients_compute_the_same_bits_as_one(tenants: list[Tenant]) -> None:
    """Interleaved on purpose: every step of one waits for a step of another."""
    server = fheinfer.Server()
    sessions = [server.session(t.plan, t.keys / "server") for t in tenants]
    inputs = [t.encrypted for t in tenants]
    alone = [session.evaluate(x) for session, x in zip(sessions, inputs, strict=True)]
    turns = threading.Barrier(4)

    def take_turns(done: StepDone) -> None:
        try:
            turns.wait(timeout=0.2)
        except threading.BrokenBarrierError:
            turns.reset()

    with ThreadPoolExecutor(4) as pool:
        jobs = [(s, x) for s, x in zip(sessions, inputs, strict=True)] * 3
        together = list(pool.map(lambda job: job[0].evaluate(job[1], observer=take_turns), jobs))
    assert together == alone * 3


def test_one_session_serves_several_threads(tenants: list[Tenant]) -> None:
    session = fheinfer.Server().session(tenants[0].plan, tenants[0].keys / "server")
    encrypted = tenants[0].encrypted
    expected = session.evaluate(encrypted)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(session.evaluate, [encrypted] * 12)) == {expected}


def test_two_inputs_answer_two_requests(tenants: list[Tenant]) -> None:
    one = tenants[0]
    other = one.client.encrypt(one.x[::-1].copy())
    session = fheinfer.Server().session(one.plan, one.keys / "server")
    first = one.encrypted
    results = session.evaluate_two(first, other)
    assert one.agrees(results[0], first)
    with pytest.raises(MismatchError, match="another request"):
        one.client.decrypt(results[1], request=first)
    last = tenants[3]
    single = fheinfer.Server().session(last.plan, last.keys / "server")
    assert not single.two_inputs
    with pytest.raises(UsageError, match="one input at a time"):
        single.evaluate_two(last.encrypted, last.encrypted)


def test_two_inputs_have_every_output_that_one_has(tmp_path: Path) -> None:
    """Of an image that is resampled, of weights that an inner layer shares, and with constants that are kept."""
    g, random = GraphBuilder("several", (1, 4, 4)), np.random.default_rng(0)
    x = g.add("square", Power(2), g.add("conv", Conv2d(1, 3, 1, 1, "shared"), "input"))
    g.linear("fc", x, 3)
    g.add("again", Conv2d(1, 3, 1, 1, "shared"), x)
    g.add("large", Resample((8, 8), "rows", "columns"), x)
    graph = g.build("fc", "again", "large")
    tensors = {n: random.normal(0, 0.5, shape).astype(np.float32) for n, shape in graph.tensor_shapes().items()}
    model = Model(graph, tensors, (0.0,), (1.0,), ranges={"square": 8.0, "input": 1.0})
    plan = fheinfer.compile(model, TURBO)
    fheinfer.keygen(plan.client, tmp_path / "keys")
    client = fheinfer.Client(tmp_path / "keys", plan.client)
    session = fheinfer.Server().session(plan, tmp_path / "keys" / "server")
    for _ in range(3):
        inputs = random.uniform(-1, 1, (2, 1, 4, 4))
        for result, clear in zip(session.evaluate_two(*map(client.encrypt, inputs)), inputs, strict=True):
            wanted = fheinfer.plain_outputs(model, clear)
            for name, found in client.outputs(result).items():
                assert precision_bits(wanted[name], found).minimum > 8, name


def test_a_series_takes_one_input_at_a_time(tmp_path: Path) -> None:
    """On such a chain two of them overflow, and every answer is noise."""
    g, random = GraphBuilder("mlp", (5,)), np.random.default_rng(0)
    g.linear("out", g.activation("relu", g.linear("in", "input", 16), "relu"), 2)
    graph = g.build()
    tensors = {n: random.normal(0, 0.5, shape).astype(np.float32) for n, shape in graph.tensor_shapes().items()}
    model = Model(graph, tensors, (0.0,) * 5, (1.0,) * 5, ranges={"relu": 6.0, "input": 1.0})
    plan = fheinfer.compile(model, "n14-l8-s28-d2")
    plan.save(tmp_path / "plan")
    fheinfer.keygen(plan.client, tmp_path / "keys")
    client = fheinfer.Client(tmp_path / "keys", plan.client)
    inputs = {str(i): x for i, x in enumerate(random.uniform(-1, 1, (2, 5)))}
    with Run(tmp_path / "runs", "two", resume=False) as run:
        done = infer_many(tmp_path / "plan", tmp_path / "keys", client, inputs, run, together=2)
    for name, x in inputs.items():
        assert precision_bits(fheinfer.run_slots(plan, x), done.outputs[name]["out"]).minimum > 8


def test_least_recently_used_keys_leave_memory_and_come_back(tenants: list[Tenant]) -> None:
    first, second, third = tenants[:3]
    sizes = [memory_needed(t.plan, fheinfer.Server().session(t.plan, t.keys / "server").keys) for t in (first, second)]
    server = fheinfer.Server(memory_limit=int(2.5 * max(sizes)))
    sessions = [server.session(t.plan, t.keys / "server") for t in (first, second)]
    assert len(server.keys) == 2
    sessions[0].evaluate(first.encrypted)
    sessions.append(server.session(third.plan, third.keys / "server"))
    assert len(server.keys) == 2
    assert server.keys.bytes <= 2.5 * max(sizes)
    loaded: list[str] = []
    with server.keys.use(sessions[1].keys, second.plan, lambda what, fraction: loaded.append(what)):
        assert loaded  # it was the one that left
    for tenant, session in zip((first, second, third), sessions, strict=True):
        encrypted = tenant.encrypted
        assert tenant.agrees(session.evaluate(encrypted), encrypted)


def test_keys_in_use_are_never_given_back(tenants: list[Tenant]) -> None:
    first, second = tenants[:2]
    opened = fheinfer.Server().session(first.plan, first.keys / "server").keys
    server = fheinfer.Server(memory_limit=int(1.5 * memory_needed(first.plan, opened)))
    session = server.session(first.plan, first.keys / "server")
    waiting = threading.Event()

    def other_client() -> bytes:
        waiting.set()
        return server.session(second.plan, second.keys / "server").evaluate(second.encrypted)

    with ThreadPoolExecutor(1) as pool:
        with server.keys.use(session.keys, first.plan):
            later = pool.submit(other_client)
            waiting.wait()
            encrypted = first.encrypted
            assert first.agrees(session.evaluate(encrypted), encrypted)
            assert not later.done()
        assert later.result(timeout=60)
    assert len(server.keys) == 1


def test_keys_that_are_still_loading_count_too(tenants: list[Tenant]) -> None:
    first, second = tenants[:2]
    sessions = [fheinfer.Server().session(t.plan, t.keys / "server") for t in (first, second)]
    limit = int(1.5 * memory_needed(first.plan, sessions[0].keys))
    server, most = fheinfer.Server(memory_limit=limit), []
    entered = threading.Barrier(2)

    def slowly(what: str, fraction: float) -> None:
        most.append(server.keys.bytes)
        time.sleep(0.02)

    def load(tenant: Tenant, session: Any) -> None:
        entered.wait()
        with server.keys.use(session.keys, tenant.plan, slowly):
            most.append(server.keys.bytes)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(load, (first, second), sessions))
    assert 0 < max(most) <= limit
    assert len(server.keys) == 1


@pytest.mark.parametrize("per_plan", [10.0, 3.0])
def test_constants_are_kept_within_the_limit_and_leave_after_idle_keys(tenants: list[Tenant], per_plan: float) -> None:
    """With room for residues, or for coefficients alone; the bits are those of a server that keeps nothing."""
    first, second = tenants[:2]
    plain = fheinfer.Server().session(first.plan, first.keys / "server")
    encrypted, need = first.encrypted, memory_needed(first.plan, plain.keys)
    expected = plain.evaluate(encrypted)
    server = fheinfer.Server(memory_limit=int(per_plan * need))
    session = server.session(first.plan, first.keys / "server")
    kept = []
    for _ in range(3):
        assert session.evaluate(encrypted) == expected
        kept.append(server.constants.bytes)
        assert server.constants.bytes + server.keys.bytes <= per_plan * need
    assert kept[0] == 0 < kept[1] == kept[2]
    server.keys.limit = need + kept[1] + need // 2
    server.session(second.plan, second.keys / "server")
    assert (server.constants.bytes, len(server.keys)) == (kept[1], 1)
    server.keys.limit = need + kept[1] // 2
    server.session(first.plan, first.keys / "server")
    assert (server.constants.bytes, len(server.keys)) == (0, 1)


def test_one_and_two_inputs_at_a_time_have_constants_of_their_own(tenants: list[Tenant]) -> None:
    tenant = tenants[0]
    server = fheinfer.Server(memory_limit=1 << 30)
    session = server.session(tenant.plan, tenant.keys / "server")
    one, other = tenant.encrypted, tenant.client.encrypt(tenant.x[::-1].copy())
    expected, pair = session.evaluate(one), session.evaluate_two(one, other)
    for _ in range(2):
        assert session.evaluate(one) == expected
        assert session.evaluate_two(one, other) == pair
    assert server.constants.bytes > 0


def test_constants_in_use_stay_and_are_counted(tenants: list[Tenant]) -> None:
    """Another client comes in the middle of an evaluation that encodes as it goes."""
    first, second = tenants[:2]
    plain = fheinfer.Server().session(first.plan, first.keys / "server")
    need, encrypted = memory_needed(first.plan, plain.keys), first.encrypted
    server = fheinfer.Server(memory_limit=3 * need)
    session = server.session(first.plan, first.keys / "server")
    expected = session.evaluate(encrypted)
    counted: list[int] = []

    def look(done: StepDone) -> None:
        counted.append(server.constants.bytes)
        assert server.constants.drop() == 0

    assert session.evaluate(encrypted, observer=look) == expected
    assert min(counted) == max(counted) >= server.constants.bytes > 0
    server.keys.limit = int(2.01 * need)
    server.session(second.plan, second.keys / "server")
    assert server.constants.bytes + server.keys.bytes <= server.keys.limit


def test_idle_keys_leave_where_the_machine_has_no_room(monkeypatch: pytest.MonkeyPatch, tenants: list[Tenant]) -> None:
    server = fheinfer.Server()
    session = server.session(tenants[0].plan, tenants[0].keys / "server")
    secure = replace(tenants[1].plan, params=replace(tenants[1].plan.params, insecure=False))
    asked: list[int] = []
    monkeypatch.setattr("fheinfer.runtime.loaded_keys.available_memory", lambda: 1000)
    monkeypatch.setattr("fheinfer.runtime.loaded_keys.require_memory", lambda needed, what: asked.append(needed))
    with server.keys.use(session.keys, session.plan):
        server.keys._make_room("another", 5000, secure)
        assert asked == [5000]  # those in use stay
    server.keys._make_room("another", 5000, secure)
    assert asked == [5000, 5000]  # what they gave back is free for the system as well
    assert len(server.keys) == 0


def test_a_limit_below_one_client_is_said(tenants: list[Tenant]) -> None:
    with pytest.raises(NotEnoughMemoryError, match="this server may take"):
        fheinfer.Server(memory_limit=1000).session(tenants[0].plan, tenants[0].keys / "server")


def test_memory_does_not_grow_with_requests(tenants: list[Tenant]) -> None:
    server = fheinfer.Server()
    sessions = [server.session(t.plan, t.keys / "server") for t in tenants[:2]]
    inputs = [t.encrypted for t in tenants[:2]]

    def serve(requests: int) -> int:
        for number in range(requests):
            sessions[number % 2].evaluate(inputs[number % 2])
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    after_20 = serve(20)
    assert serve(60) < after_20 + 8 * 2**20


def test_the_result_names_its_request_and_no_scale(tenants: list[Tenant]) -> None:
    tenant = tenants[0]
    encrypted = tenant.encrypted
    result = fheinfer.Server().session(tenant.plan, tenant.keys / "server").evaluate(encrypted)
    found = from_bytes(result, kind=Kind.CIPHERTEXT, max_body=1 << 20)
    assert dict(found.metadata) == {
        "role": "result",
        "plan": tenant.plan.identity,
        "request": request_id(encrypted),
    }
    forged = to_bytes(
        type(found)(found.kind, found.identity, found.key_id, {**found.metadata, "plan": "0" * 64}, found.body)
    )
    with pytest.raises(MismatchError, match="another plan"):
        tenant.client.decrypt(forged)


def test_keys_of_another_plan_are_refused_with_what_to_run(tenants: list[Tenant], plans: list[fheinfer.Plan]) -> None:
    with pytest.raises(MismatchError):
        fheinfer.Server().session(plans[2], tenants[0].keys / "server")
    with pytest.raises(UsageError, match="no plan"):
        fheinfer.Server().session("0" * 64, tenants[0].keys / "server")


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    disk = SimpleNamespace(f_bavail=size, f_frsize=1)
    monkeypatch.setattr(storage, "os", SimpleNamespace(**{**vars(os), "statvfs": lambda path: disk}))


def never(done: StepDone) -> None:
    raise AssertionError("it computed")


@pytest.fixture
def encrypted(tiny_client: fheinfer.Client, tiny_image: F64) -> bytes:
    return tiny_client.encrypt(tiny_image)


def test_a_full_disk_is_noticed_before_the_run(
    tiny_session: Any, encrypted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 100_000)
    with pytest.raises(StorageError, match=r"run needs .* MB and its disk has 0\.10 MB free"):
        tiny_session.evaluate(encrypted, observer=never, checkpoints=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_room_for_what_a_run_leaves_is_asked_for(
    tiny_session: Any, encrypted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("fheinfer.server.require_disk", lambda path, size: asked.append(size))
    for keep in (False, True):
        tiny_session.evaluate(encrypted, checkpoints=tmp_path / str(keep), keep_layers=keep)
        left = sum(path.stat().st_size for path in (tmp_path / str(keep)).iterdir())
        assert left <= asked[-1] < 16 * left  # on this ring the bound on metadata is half of it, and blocks are low
