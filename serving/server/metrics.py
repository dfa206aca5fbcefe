"""What monitoring reads from a server, under TensorFlow Serving's names."""

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

# The library puts `_total` behind the names of counters; TensorFlow Serving's have none.
_TOTAL = re.compile(r"^((?:# (?:HELP|TYPE) )?:[\w:]+)_total(?=[ {])", re.MULTILINE)

# Requests for models that do not exist share a time series: one for each name fills the memory.
NO_MODEL = ""


def _exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    """Return TensorFlow's bucket limits of that name."""
    return tuple(scale * growth**power for power in range(count))


class Metrics:
    """Counters and histograms of one server; every method may be called from any thread."""

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
            model: the model's name, or NO_MODEL where there is none of the name asked for.
            api: "Predict", "Classify", "Regress" or "MultiInference".
            entrypoint: "REST" or "GRPC".
            status: the name of the gRPC code, such as "OK".
            latency_secs: from the request's last byte to the answer's first.
        """
        self._requests.labels(model, status).inc()
        if status == "OK":
            self._latency.labels(model, api, entrypoint).observe(latency_secs * 1e6)

    def batch(self, pool: str, waited_secs: Sequence[float], rows: int, size: int) -> None:
        """Count one batch that was run: how long its tasks waited, and rows with padding."""
        for secs in waited_secs:
            self._queuing.labels(pool).observe(secs * 1e6)
        self._processed.observe(size)
        self._padding.observe(size - rows)

    def load(self, path: str, *, succeeded: bool) -> None:
        """Count an attempt to load the version at a path."""
        self._loads.labels(path, "success" if succeeded else "fail").inc()

    def page(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return _TOTAL.sub(r"\1", generate_latest(self._registry).decode()).encode()
