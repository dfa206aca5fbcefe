"""Names and numbers defined by TensorFlow Serving, used by the export, the server and the client.

No large library is imported, because configs and the REST client use this module.
"""

import re
from pathlib import Path

from pipeline.storage.remote import is_remote, sizes_below

DEFAULT_SIGNATURE = "serving_default"
"""Signature for requests without a signature name."""

SAVED_MODEL = "saved_model.pb"
"""File that every SavedModel directory contains."""

WARM_UP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
"""Path in a version directory of the requests that a server runs before it serves the version."""

METRICS_PATH = "/monitoring/prometheus/metrics"
"""Path of the REST API where Prometheus reads metrics."""

REST_PORT, GRPC_PORT = 8501, 8500
"""Default ports of the two APIs."""

MONITORING_CONFIG = f"""\
# GET {METRICS_PATH}
prometheus_config {{ enable: true path: "{METRICS_PATH}" }}
"""
"""`MonitoringConfig` in text format that enables `METRICS_PATH`."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest answer of our server, and largest message of our gRPC client, in bytes.

gRPC's own default for received messages, 4 MiB, is less than one answer with attention scores.
"""

MAX_VERSION = 2**63 - 1
"""Versions are int64 in TensorFlow Serving's messages."""


def version_number(name: str) -> int | None:
    """Return the version number in a directory name or URL; None if it is not a version number.

    A version number consists of ASCII digits and is at most `MAX_VERSION`. Leading zeros are
    allowed, as in TensorFlow Serving.
    """
    # At most 19 digits are converted: a URL may have thousands, and `int` refuses more than 4300.
    if not re.fullmatch("0*[0-9]{1,19}", name, re.ASCII):
        return None
    number = int(name)
    return number if number <= MAX_VERSION else None


def model_name(model_path: Path) -> str:
    """Return the name of the model in a directory; empty for a root, such as a bucket."""
    named = model_path if model_path.name not in ("", "..") else model_path.resolve()
    return named.name


def next_version(model_path: Path) -> int:
    """Return the largest version number among the names in a model's directory, plus 1."""
    names = (child.name for child in model_path.iterdir()) if model_path.exists() else ()
    numbers = map(version_number, names)
    return max((number for number in numbers if number is not None), default=0) + 1


def versions_of(model_path: Path) -> dict[int, Path]:
    """Return the version directories of a model by version number, in ascending order.

    In remote storage those without `SAVED_MODEL` are left out: it is uploaded last.
    """
    if is_remote(model_path):
        parts = (name.split("/") for name in sizes_below(model_path))
        # One listing of all objects: a folder in a store is a prefix, not an entry.
        children = [model_path / name for name, *rest in parts if rest == [SAVED_MODEL]]
    else:
        exists = model_path.is_dir()
        children = sorted(path for path in model_path.iterdir() if path.is_dir()) if exists else []
    numbered = ((version_number(child.name), child) for child in children)
    return dict(sorted((number, child) for number, child in numbered if number is not None))
