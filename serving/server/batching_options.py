"""How requests are batched: TensorFlow Serving's parameters, and the defaults of `serve`."""

from dataclasses import dataclass, field

from pipeline.cores import usable_cores
from pipeline.errors import InputError


@dataclass(frozen=True)
class BatchingOptions:
    """TensorFlow Serving's `BatchingParameters`, with its defaults."""

    # Largest accepted request, in rows.
    max_batch_size: int = 1000
    # How long the first request of a batch waits for others while a thread is free.
    batch_timeout_micros: int = 0
    # Queued batches per signature; further requests are refused with UNAVAILABLE.
    max_enqueued_batches: int = 10
    # Number of batches that run concurrently.
    num_batch_threads: int = field(default_factory=usable_cores)
    # Batch sizes, ascending; batches are padded to the next one. () = no padding.
    allowed_batch_sizes: tuple[int, ...] = ()
    # Whether inputs with different inner shapes are padded (with their first element) and batched;
    # otherwise they are not batched together.
    pad_variable_length_inputs: bool = False
    # Rows at which a batch is full; None = max_batch_size. A larger request runs as a separate
    # batch, or is split if that is enabled.
    max_execution_batch_size: int | None = None
    enable_large_batch_splitting: bool = False
    # Work at which a batch is full and a request is split: bytes of text plus count of numbers,
    # over all inputs. A single row may exceed it. None = only rows count.
    max_execution_work: int | None = None
    # Pieces of a split request that are queued at a time, so that other requests get their turn;
    # None = all.
    max_enqueued_pieces: int | None = None
    # Label of this server's batches in metrics.
    thread_pool_name: str = "batch_threads"

    def __post_init__(self) -> None:
        """Check the ranges of the fields.

        Raises:
            InputError: a number is out of range; in TensorFlow Serving's wording if it has one.
        """
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: expected {least} or more, received {value}")
        sizes = self.allowed_batch_sizes
        if any(low >= high for low, high in zip((0, *sizes), sizes, strict=False)):
            raise InputError(
                f"allowed_batch_sizes entries must be monotonically increasing; received "
                f"{list(sizes)}"
            )
        if sizes and sizes[-1] != self.execution_size:
            raise InputError(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {self.execution_size}"
            )

    @property
    def execution_size(self) -> int:
        """Number of rows at which a batch is full."""
        return self.max_execution_batch_size or self.max_batch_size


_LEAST = {
    "max_batch_size": 1,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 1,
    "num_batch_threads": 1,
    "max_execution_batch_size": 1,
    "max_execution_work": 1,
    "max_enqueued_pieces": 1,
}

# Defaults of `serve` without a batching file. Timeout 0: only requests that wait anyway form a
# batch, so a single client never waits. One batch at a time uses all cores; meanwhile the next one
# fills. With one thread per core, batches of 32 clients' texts had 7 rows instead of 15, and a text
# took 20% more CPU. Larger requests are split and run piece by piece: 1,000 long texts in one run
# would need 12 GB for attention and block other clients. The work limit is about four long texts.
SERVE_DEFAULT = BatchingOptions(
    max_execution_batch_size=32,
    max_enqueued_batches=128,
    num_batch_threads=1,
    enable_large_batch_splitting=True,
    max_execution_work=8 * 1024,
    max_enqueued_pieces=1,
)
