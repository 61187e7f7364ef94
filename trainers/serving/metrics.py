"""Metrics of a service, in the text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of `generate_latest`
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """
    Counters of one service; labels are routes, never what a request says.

    Attributes:
        requests: by `route`, `method` and `status`.
        seconds: from a request's arrival to its answer, by `route`.
        histories: that were answered, by `outcome`: `ok` or `error`.
        batch_histories, batch_seconds: of each call of the model.
        changes: of the catalogue, by `kind`: `items` or `reload`.
    """

    def __init__(self) -> None:
        self.registry = here = CollectorRegistry()
        self.requests = Counter("utgrec_requests", "Requests.", ["route", "method", "status"], registry=here)
        self.seconds = Histogram(
            "utgrec_request_seconds", "From arrival to answer.", ["route"], buckets=SECONDS, registry=here
        )
        self.histories = Counter("utgrec_histories", "Histories that were answered.", ["outcome"], registry=here)
        self.batch_histories = Histogram(
            "utgrec_batch_histories", "Histories of one call of the model.", buckets=ROWS, registry=here
        )
        self.batch_seconds = Histogram(
            "utgrec_batch_seconds", "One call of the model.", buckets=SECONDS, registry=here
        )
        self.changes = Counter("utgrec_catalogue_changes", "Changes of the catalogue.", ["kind"], registry=here)

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, description, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


__all__ = ["CONTENT_TYPE", "Metrics"]
