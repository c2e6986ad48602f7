"""Event streams: what they say, when, and how they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fheinfer.service.http import events as module
from fheinfer.service.http.changes import Changes
from fheinfer.service.protocol import JobInfo

QUEUED = JobInfo(id="0" * 32, plan="0" * 64, key_id="0" * 32, request="0" * 64, state="queued", created=1.0, position=3)


def stream(states: list[JobInfo | None], *, stop: Callable[[], bool] = lambda: False, silence: float = 60) -> list[str]:
    """All that a stream says while a thread tells of one state after another."""
    changes, at, looked = Changes(), [0], threading.Event()

    def look() -> JobInfo | None:
        found = states[at[0]]
        looked.set()
        return found

    def change() -> None:
        while not done.wait(0.02):
            if looked.is_set():  # no state passes unseen, however busy the machine is
                looked.clear()
                at[0] = min(at[0] + 1, len(states) - 1)
                changes.tell(None if at[0] % 2 else QUEUED.id)

    async def read() -> list[str]:
        changes.attach()
        thread = threading.Thread(target=change)
        thread.start()
        try:
            return [part async for part in module.events(QUEUED.id, look, changes, stop, silence)]
        finally:
            done.set()
            thread.join()

    done = threading.Event()
    return asyncio.run(asyncio.wait_for(read(), 60))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.001)


def job(**changed: Any) -> JobInfo:
    return QUEUED.model_copy(update=changed)


def test_a_stream_ends_with_the_job() -> None:
    for state in ("done", "failed", "cancelled"):
        said = stream([QUEUED, job(position=2), job(state="running", position=None), job(state=state)])
        assert all(part.startswith("event: job\ndata: {") and part.endswith("}\n\n") for part in said)
        seen = [JobInfo.model_validate_json(part.split("data: ")[1]) for part in said]
        assert seen[0] == QUEUED
        assert seen[-1].state == state


def test_what_does_not_change_is_not_said_again() -> None:
    said = stream([QUEUED, QUEUED, QUEUED, QUEUED, job(state="done")])
    assert len(said) == 2


def test_a_stream_ends_where_the_job_is_forgotten_or_the_service_stops() -> None:
    assert len(stream([QUEUED, None])) == 1
    assert len(stream([QUEUED], stop=lambda: True)) == 1


def test_a_stream_says_that_it_is_alive() -> None:
    calls = [0]

    def stop() -> bool:
        calls[0] += 1
        return calls[0] > 20

    said = stream([QUEUED], stop=stop, silence=0.05)
    assert said[0].startswith("event: job")
    assert set(said[1:]) == {": waiting\n\n"}


def test_changes_are_told_to_whom_they_concern() -> None:
    changes = Changes()
    changes.tell("a")  # nobody waits, and there is no loop
    before = {name: changes.version(name) for name in "ab"}

    async def follow() -> list[str]:
        changes.attach()
        woken: list[str] = []

        async def wait(name: str) -> None:
            await changes.wait(name, before[name], 60)
            woken.append(name)

        tasks = [asyncio.create_task(wait(name)) for name in "ab"]
        await asyncio.sleep(0.05)
        threading.Thread(target=changes.tell, args=("a",)).start()
        await tasks[0]
        await asyncio.sleep(0.05)
        assert woken == ["a"]
        changes.tell()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        return woken

    assert asyncio.run(follow()) == ["a", "b"]
    changes.tell()  # the loop has ended
    assert changes.version("a") == changes.version("b") > before["b"]


def test_a_change_between_looking_and_waiting_is_not_missed() -> None:
    changes = Changes()

    async def follow() -> None:
        changes.attach()
        seen = changes.version("a")
        changes.tell("a")
        await asyncio.wait_for(changes.wait("a", seen, 600), 60)

    asyncio.run(follow())
