"""10,000 hostile requests (issue: "without a crash or growth of memory").

Threats: anonymous uploads fill the disk; native parsers; replay, confusion.
"""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from fheinfer.compiler.plan import Plan
from fheinfer.crypto.manifest import MAX_BYTES
from fheinfer.service.http.service import Service
from tests.service.conftest import Api, serve
from tests.service.hostile.asking import Request, ask, check, over_the_wire, request
from tests.service.hostile.bodies import OTHER_IDS, Target, attacks
from tests.service.hostile.conftest import make_target

COUNT = 10_000
AT_ONCE = 8
WARM = COUNT // 5
"""After so many of them, nothing grows any more."""
GROWTH = 32 << 20
"""Bytes, of noise of threads and arenas: 4 KiB that stay of each request are more."""


def kept(service: Service) -> tuple[list[str], dict[str, int]]:
    """Files and rows that the service has."""
    data = service.settings.data
    files = sorted(str(path.relative_to(data)) for path in data.rglob("*") if not path.name.startswith("service.db"))
    with service.store._transaction() as sql:
        rows = {
            name: sql.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("jobs", "key_sets", "accounts")
        }
    return files, rows


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def test_hostile_requests(service: Service, app: Any, api: Api, target: Target) -> None:
    """No 5xx but on purpose, problem documents of known kinds, and nothing of it stays: not in memory, not on disk."""
    statuses: Counter[tuple[str, int]] = Counter()
    secrets = (str(service.settings.data), str(Path.cwd()), target.token)
    before = kept(service)

    async def send(some: Iterator[tuple[str, Request]]) -> None:
        for name, asked in some:
            answer = await ask(app, asked)
            check(answer, asked, secrets)
            statuses[name, answer.status if answer else 0] += 1

    async def attack() -> list[int]:
        service.changes.attach()
        all_of_them, sizes = attacks(target, 1, COUNT), []
        for count in (WARM, COUNT - WARM):
            some = islice(all_of_them, count)
            await asyncio.gather(*(send(some) for _ in range(AT_ONCE)))
            for key_id in OTHER_IDS:
                await ask(app, request("DELETE", f"/v1/keys/{key_id}", token=target.token))
            assert kept(service) == before
            sizes.append(resident())
        return sizes

    warm, end = asyncio.run(attack())
    assert kept(service) == before
    assert end - warm < GROWTH, f"{end - warm} bytes more after {COUNT} requests than after {WARM}"
    assert {status for _, status in statuses} > {200, 400, 401, 404, 405, 409, 411, 413}, statuses
    assert api("GET", f"/v1/keys/{target.key_id}").json()["complete"]
    assert api.submit(target.encrypted, target.plan, target.key_id).status_code == 200


def test_a_manifest_is_kept_as_it_came(api: Api, target: Target) -> None:
    """One that just fits its bound was over it with line breaks, and its upload could not be read again."""
    fields = json.loads(target.manifest)
    fields["key_id"] = OTHER_IDS[0]
    more = [[rotation, limbs] for rotation in range(1000) for limbs in range(11, 19)]
    fields["files"] |= {f"rotation_{r}_{limbs}.key": {"bytes": 1, "sha256": "0" * 64} for r, limbs in more}
    fields["rotations"] = sorted([*fields["rotations"], *more])
    raw = json.dumps(fields, separators=(",", ":")).encode()
    assert len(raw) < MAX_BYTES < len(json.dumps(fields, indent=2))
    for status in (201, 200):
        answer = api("PUT", f"/v1/keys/{OTHER_IDS[0]}", content=raw)
        assert answer.status_code == status, answer.text
    assert len(api("GET", f"/v1/keys/{OTHER_IDS[0]}").json()["files"]) == len(fields["files"])


@pytest.mark.parametrize("parts", ["bytes=-0", "bytes=a-b", "bytes=0-0,1-1", "bytes=9999999-"])
def test_parts_of_files_are_not_offered(api: Api, target: Target, parts: str) -> None:
    """What Starlette says of impossible ones is no problem document."""
    whole = api("GET", f"/v1/plans/{target.plan}/client.json")
    answer = api("GET", f"/v1/plans/{target.plan}/client.json", headers={"Range": parts})
    assert (answer.status_code, answer.content) == (200, whole.content)


NO_LIMITS = """
from fheinfer.service.http.limits import Buckets
Buckets.take = lambda self, key: None
from fheinfer.cli.main import main
main()
"""


@pytest.mark.slow
def test_hostile_requests_over_the_wire(
    models: Path, tmp_path: Path, tiny_plan: Plan, tiny_keys: Path, tiny_client: Any, tiny_image: Any, other_keys: Path
) -> None:
    """The same against a real process, whose memory and workers stay as they are."""
    with serve(tmp_path / "data", "--models", models, "--threads", 1, python=NO_LIMITS) as service:
        api = service.api()
        target = make_target(api, tiny_plan, tiny_keys, tiny_client.encrypt(tiny_image), other_keys)
        host, port = service.url.removeprefix("http://").split(":")
        process = psutil.Process(service.process.pid)
        workers = {child.pid for child in process.children()}
        all_of_them, lock, sizes = attacks(target, 2, COUNT), threading.Lock(), []

        def send(count: int) -> int:
            answered = 0
            for _ in range(count):
                with lock:
                    _, asked = next(all_of_them)
                answer = over_the_wire((host, int(port)), asked)
                check(answer, asked, (str(tmp_path), target.token))
                answered += answer is not None
            return answered

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for count in (WARM, COUNT - WARM):
                assert sum(pool.map(send, [count // AT_ONCE] * AT_ONCE)) > count // 2
                sizes.append(process.memory_info().rss)
        assert sizes[1] - sizes[0] < GROWTH, sizes
        assert {child.pid for child in process.children()} == workers
        assert api.submit(target.encrypted, target.plan, target.key_id).status_code == 200
        assert service.process.poll() is None
        assert "Traceback" not in "".join(service.log)
