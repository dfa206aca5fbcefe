"""The server's limits on memory, concurrency and time."""

from dataclasses import dataclass, field

from pipeline.cores import usable_cores
from serving.tf_serving import MAX_MESSAGE_BYTES

PIECE_BYTES = 64 * 1024
"""Size of the pieces in which a response is written to a connection."""

CHUNK_VALUES = 65_536
"""Number of values that one call into C converts from or to Python objects.

Such a call holds the interpreter lock throughout; other threads get it between two calls.
"""


@dataclass(frozen=True)
class Limits:
    """Limits on memory, threads and waiting, and on the operations that requests may use."""

    # Largest size of a request in memory.
    max_message_bytes: int = MAX_MESSAGE_BYTES
    # Largest answer: its outputs in memory, and what is sent of them.
    max_answer_bytes: int = MAX_MESSAGE_BYTES
    # Largest request: body (REST, before and after decompression) or message (gRPC).
    max_body_bytes: int = 4 * 1024 * 1024
    # Bytes of requests and responses in memory, over all clients.
    max_bytes_in_flight: int = 256 * 1024 * 1024
    # Concurrent predictions; TensorFlow parallelizes each of them over the cores.
    max_concurrent_runs: int = field(default_factory=lambda: max(2, usable_cores()))
    # Accepted predictions, from the last byte of the request until the response is ready; further
    # ones are refused with UNAVAILABLE.
    max_accepted_requests: int = 128
    # Open connections per API. For one more, REST closes the connection whose client has been
    # slowest; gRPC refuses the new one.
    max_connections: int = 1024
    # Time limit for a client to send a request's head, to send its body, and to read each 64 KiB of
    # a response.
    transfer_timeout_secs: float = 10.0
    # A connection without a request is closed after this long.
    idle_timeout_secs: float = 30.0
    # A gRPC connection is closed after this time, so that clients discover other servers.
    max_connection_age_secs: float = 3600.0
    # Time limit of a REST request; TensorFlow Serving's default.
    rest_timeout_secs: float = 30.0
    # How long running requests may take after the server is told to stop.
    stop_timeout_secs: float = 30.0
    # Whether gRPC clients may replace the list of models, and its maximum length then.
    allow_reload: bool = False
    max_models: int = 32
    # Whether Classify and Regress require signatures with the matching method_name.
    checks_method_names: bool = False
    # Interval of polling for new versions; TensorFlow Serving's default.
    poll_secs: float = 1.0

    @property
    def max_request_bytes(self) -> int:
        """Return the size limit of requests."""
        return min(self.max_body_bytes, self.max_message_bytes)
