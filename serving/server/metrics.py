"""Prometheus metrics of a server, under TensorFlow Serving's names."""

import re
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from pipeline.storage.files import in_utf8

# The library appends `_total` to the names of counters; TensorFlow Serving's names do not have it.
_TOTAL = re.compile(r"^((?:# (?:HELP|TYPE) )?:[\w:]+)_total(?=[ {])", re.MULTILINE)

# Requests for unknown models share one time series: one per name would let clients fill the memory.
NO_MODEL = ""


def _exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    """Return bucket limits like TensorFlow's `Buckets::Exponential`."""
    return tuple(scale * growth**power for power in range(count))


class Metrics:
    """Counters and histograms of one server; all methods are thread-safe."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            ["model_name", "status"],
            registry=registry,
        )
        self._latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) for requests that succeed.",
            ["model_name", "API", "entrypoint"],
            registry=registry,
            buckets=_exponential(10, 1.8, 33),
        )
        self._queuing = Histogram(
            ":tensorflow:serving:batching_session:queuing_latency",
            "Distribution of wall time spent (in microseconds) in queuing",
            ["thread_pool_name"],
            registry=registry,
            buckets=_exponential(100, 1.2, 52),
        )
        self._processed = Histogram(
            ":tensorflow:serving:batching_session:processed_batch_size",
            "Rows of the batches that were run, padding included.",
            registry=registry,
            buckets=_exponential(1, 2, 12),
        )
        self._padding = Histogram(
            ":tensorflow:serving:batching_session:padding_size",
            "Rows of padding in the batches that were run.",
            registry=registry,
            buckets=(0, *_exponential(1, 2, 12)),
        )
        self._loads = Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "Attempts to load a version, warm-up included.",
            ["model_path", "status"],
            registry=registry,
        )

    def request(
        self, model: str, api: str, entrypoint: str, status: str, latency_secs: float
    ) -> None:
        """Count one prediction.

        Args:
            model: name of the model, or NO_MODEL if the requested model does not exist.
            api: "Predict", "Classify", "Regress" or "MultiInference".
            entrypoint: "REST" or "GRPC".
            status: the name of the gRPC code, such as "OK".
            latency_secs: time from the request's last byte to the response's first.
        """
        self._requests.labels(model, status).inc()
        if status == "OK":
            self._latency.labels(model, api, entrypoint).observe(latency_secs * 1e6)

    def batch(self, pool: str, waited_secs: Sequence[float], rows: int, size: int) -> None:
        """Record one executed batch: its tasks' queuing times, its rows, its size with padding."""
        for secs in waited_secs:
            self._queuing.labels(pool).observe(secs * 1e6)
        self._processed.observe(size)
        self._padding.observe(size - rows)

    def load(self, path: str, *, succeeded: bool) -> None:
        """Count an attempt to load the version at a path."""
        self._loads.labels(in_utf8(path), "success" if succeeded else "fail").inc()

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return _TOTAL.sub(r"\1", generate_latest(self._registry).decode()).encode()
