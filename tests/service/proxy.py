"""A TCP proxy that delays, cuts and corrupts connections at random: what lies between a client and a service."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

READ = 1 << 14


@dataclass(frozen=True)
class Trouble:
    """What may happen to what goes one way.

    delay    probability of a pause of up to 50 ms before each piece
    cut      bytes between one end without a goodbye and the next, about
    corrupt  bytes between one bit that is flipped and the next, about
    """

    delay: float = 0.1
    cut: float = math.inf
    corrupt: float = math.inf


class Proxy:
    """Listens on a free port of 127.0.0.1, `port`, and passes all on to another one; a context manager.

    troubles  how often something was done to a connection
    """

    def __init__(self, target: int, seed: int, trouble: Trouble) -> None:
        self.port = 0
        self.troubles = 0
        self._target, self._random, self._trouble = target, random.Random(seed), trouble
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", self._target)
        ways = [self._pass(reader, onward, writer), self._pass(there, writer, onward)]
        with suppress(OSError, asyncio.CancelledError):  # a task of asyncio's server may not end by a cancellation
            await asyncio.gather(*ways)
        for end in (writer, onward):
            end.close()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        trouble, dice = self._trouble, self._random
        cut, flip, done = self._gap(trouble.cut), self._gap(trouble.corrupt), 0
        while data := await source.read(READ):
            if dice.random() < trouble.delay:
                await asyncio.sleep(dice.uniform(0, 0.05))
            while flip < done + len(data):
                at = int(flip - done)
                data = data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
                self.troubles += 1
                flip += 1 + self._gap(trouble.corrupt)
            if cut < done + len(data):
                self.troubles += 1
                target.write(data[: int(cut - done)])
                await asyncio.sleep(0)
                for end in (target, other):
                    end.transport.abort()
                return
            target.write(data)
            await target.drain()
            done += len(data)
        with suppress(OSError):
            target.write_eof()

    def _gap(self, every: float) -> float:
        """Bytes up to the next trouble. Half of them are few, so that heads of requests and of answers are hit, too."""
        return every * self._random.choice((1.0, 0.01)) * self._random.expovariate(1.0)
