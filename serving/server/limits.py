"""How much the server takes on at once."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on memory, on threads, on waiting, and on what requests may ask for."""

    # Largest request body (REST, after decompression) and message (gRPC, both ways).
    max_message_bytes: int = 64 * 1024 * 1024
    # Predictions that run at a time; TensorFlow spreads each over the cores by itself.
    max_concurrent_runs: int = max(2, os.cpu_count() or 1)
    # Predictions accepted per API, running or waiting; one more is told to come back later.
    max_accepted_requests: int = 128
    # A REST client hears of a timeout after this long; TensorFlow Serving's default.
    rest_timeout_secs: float = 30.0
    # Running requests get this long to end when the server stops.
    stop_timeout_secs: float = 30.0
    # Whether gRPC clients may replace the list of models, and how many models it may then have.
    allow_reload: bool = False
    max_models: int = 32
    # Whether Classify and Regress need signatures whose method_name says so.
    checks_method_names: bool = False
    # Between two looks for new versions; TensorFlow Serving's default.
    poll_secs: float = 1.0
