"""Names and numbers that TensorFlow Serving fixes, shared by the export, the server and the client.

Nothing is imported here but the standard library: flags and the REST client need these, too.
"""

import re
from pathlib import Path

DEFAULT_SIGNATURE = "serving_default"
"""Signature that answers a request without a signature name."""

SAVED_MODEL = "saved_model.pb"
"""File that makes a version directory a SavedModel."""

WARM_UP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
"""Where a version directory has the requests that a server runs before it announces the version."""

METRICS_PATH = "/monitoring/prometheus/metrics"
"""Path of the REST API where Prometheus reads metrics."""

REST_PORT, GRPC_PORT = 8501, 8500
"""Default ports of the two APIs."""

MONITORING_CONFIG = f"""\
# GET {METRICS_PATH}
prometheus_config {{ enable: true path: "{METRICS_PATH}" }}
"""
"""A `MonitoringConfig` in text format: metrics at that path."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest answer of our server, and largest message of our gRPC client, in bytes.

gRPC's own default for received messages, 4 MiB, is less than one answer with attention scores.
"""

MAX_VERSION = 2**63 - 1
"""Versions are int64 in TensorFlow Serving's messages."""


def version_number(name: str) -> int | None:
    """Return the version that a directory name or a URL says; None if it is no version.

    A version is a whole number of ASCII digits, at most `MAX_VERSION`. Leading zeros are allowed,
    as in TensorFlow Serving.
    """
    # Only so many digits are converted: a URL may have thousands.
    if not re.fullmatch("0*[0-9]{1,19}", name, re.ASCII):
        return None
    number = int(name)
    return number if number <= MAX_VERSION else None


def next_version(model_path: Path) -> int:
    """Return the number after the largest that a file or a directory of a model has for a name."""
    numbers = (version_number(child.name) for child in model_path.iterdir())
    return max((number for number in numbers if number is not None), default=0) + 1


def versions_of(model_path: Path) -> dict[int, Path]:
    """Return the version directories of a model by number, ascending; none if it has none."""
    if not model_path.is_dir():
        return {}
    numbered = ((version_number(child.name), child) for child in sorted(model_path.iterdir()))
    found = {number: child for number, child in numbered if number is not None and child.is_dir()}
    return dict(sorted(found.items()))
