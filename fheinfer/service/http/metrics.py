"""Figures for Prometheus, in a registry of this service's own. They name no account, no model and no key."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MEDIA_TYPE = CONTENT_TYPE_LATEST
_METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE"))
_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600)
_JOB_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 600, 3600)

Gauges = Callable[[], dict[str, tuple[str, float]]]
"""Figures that are asked for when they are read: (help, value) by name."""


class Metrics:
    """Counts requests, and asks `gauges` for the rest."""

    def __init__(self, gauges: Gauges = dict) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fheinfer_requests", "Requests that were answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "fheinfer_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._jobs = {
            name: Histogram(f"fheinfer_job_{name}_seconds", what, buckets=_JOB_SECONDS, registry=self._registry)
            for name, what in (
                ("waiting", "Seconds from a job's submission to its start."),
                ("evaluation", "Seconds from the start of a job's last attempt to its result."),
            )
        }
        self._lost = Counter("fheinfer_workers_lost", "Workers that died or hung.", registry=self._registry)
        self._registry.register(_Gauges(gauges))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request. Methods that nobody knows are one, so that no client makes series of its own."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def job(self, what: str, seconds: float) -> None:
        """What `Dispatcher` measures: "waiting" and "evaluation" of a job, or a worker that was "lost" with it."""
        if what == "lost":
            self._lost.inc()
        else:
            self._jobs[what].observe(seconds)

    def text(self) -> bytes:
        """All figures in Prometheus's form."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def describe(self) -> Iterator[Metric]:
        """No figures: registering asks for none."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, (what, value) in self._gauges().items():
            family = GaugeMetricFamily(f"fheinfer_{name}", what)
            family.add_metric([], value)
            yield family
