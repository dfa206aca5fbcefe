"""How much the server takes on at once."""

import os
from dataclasses import dataclass

from serving.tf_serving import MAX_MESSAGE_BYTES

PIECE_BYTES = 64 * 1024
"""What of an answer is handed over to a connection at a time."""


@dataclass(frozen=True)
class Limits:
    """Bounds on memory, on threads, on waiting, and on what requests may ask for."""

    # Largest answer, and bound of what a request may become in memory.
    max_message_bytes: int = MAX_MESSAGE_BYTES
    # Largest request: body (REST, before and after decompression) or message (gRPC).
    max_body_bytes: int = 4 * 1024 * 1024
    # Bytes of requests and answers that the server holds at a time, over all clients.
    max_bytes_in_flight: int = 256 * 1024 * 1024
    # Predictions that run at a time; TensorFlow spreads each over the cores by itself.
    max_concurrent_runs: int = max(2, os.cpu_count() or 1)
    # Predictions accepted, from the last byte of the request until the answer is ready; one more is
    # told to come back later.
    max_accepted_requests: int = 128
    # Open connections per API. When a REST client opens one more, the one that has kept the server
    # waiting longest is closed; gRPC refuses it.
    max_connections: int = 1024
    # A client gets this long to send a request's head, then its body, and to take each next 64 KiB
    # of an answer.
    transfer_timeout_secs: float = 10.0
    # A connection without a request is closed after this long.
    idle_timeout_secs: float = 30.0
    # A gRPC connection is closed after this long, so that clients find other servers.
    max_connection_age_secs: float = 3600.0
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

    @property
    def max_request_bytes(self) -> int:
        """Return the size of the largest request that is accepted."""
        return min(self.max_body_bytes, self.max_message_bytes)
