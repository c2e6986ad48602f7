"""How much one account or one address may ask for: token buckets and counts, in memory and bounded."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from fheinfer.service.http.problems import RateError

MOST_KEYS = 10_000
"""Accounts or addresses that a bucket remembers; the least recently seen is forgotten first."""


@dataclass(frozen=True)
class Rate:
    """`burst` at once, then `per_second`."""

    per_second: float
    burst: float


class Buckets:
    """A token bucket per key; safe to use from several threads.

    Args:
        rate: of each key.
        what: what there is too much of, for the message.
        clock: seconds; another one in tests.
    """

    def __init__(self, rate: Rate, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._what, self._clock = rate, what, clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    def take(self, key: Hashable, per_second: float = 0.0) -> None:
        """Takes one.

        Args:
            per_second: that there are at least, whatever the rate says.

        Raises:
            RateError: none is left; it says when there is one.
        """
        now, per_second = self._clock(), max(self._rate.per_second, per_second)
        with self._lock:
            level, before = self._levels.pop(key, (self._rate.burst, now))
            level = min(self._rate.burst, level + (now - before) * per_second)
            self._levels[key] = (max(0.0, level - 1) if level >= 1 else level, now)
            if len(self._levels) > MOST_KEYS:
                self._levels.popitem(last=False)
        if level < 1:
            seconds = (1 - level) / per_second
            raise RateError(f"too many {self._what}; wait {max(1, round(seconds))} s", seconds)


class Slots:
    """At most `most` things at once per key, and `total` over all keys; safe to use from several threads."""

    def __init__(self, most: int, total: int, what: str) -> None:
        self._most, self._total, self._what = most, total, what
        self._held: Counter[Hashable] = Counter()
        self._lock = Lock()

    @contextmanager
    def held(self, key: Hashable) -> Iterator[None]:
        """Holds one.

        Raises:
            RateError: all are held.
        """
        with self._lock:
            if self._held[key] >= self._most or self._held.total() >= self._total:
                raise RateError(f"too many {self._what} at the same time; wait until one has ended", 1)
            self._held[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[key] -= 1
                self._held += Counter()  # drops keys that hold nothing
