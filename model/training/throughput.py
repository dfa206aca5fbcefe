"""Throughput of a training."""


class Throughput:
    """Throughput of the compiled loop; the first call is excluded because it compiles.

    Attributes:
        batch_size: global batch size.
        steps: number of steps.
        positions: number of positions in these steps, padding included.
        secs: time of these steps, in seconds.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps, self.positions, self.secs = 0, 0.0, 0.0
        self._is_compiled = False

    def add(self, steps: int, positions: float, secs: float) -> None:
        """Add a call.

        Args:
            steps: number of steps.
            positions: number of positions, padding included.
            secs: time of the call, in seconds.
        """
        if self._is_compiled:
            self.steps += steps
            self.positions += positions
            self.secs += secs
        self._is_compiled = True

    @property
    def steps_per_sec(self) -> float:
        """Steps per second."""
        return self.steps / max(self.secs, 1e-9)

    @property
    def tokens_per_sec(self) -> float:
        """Positions per second, padding included."""
        return self.positions / max(self.secs, 1e-9)

    @property
    def examples_per_sec(self) -> float:
        """Examples per second."""
        return self.steps_per_sec * self.batch_size

    @property
    def mean_length(self) -> float:
        """Positions per example, padding included."""
        return self.tokens_per_sec / max(self.examples_per_sec, 1e-9)

    def steps_within(self, secs: float) -> float:
        """Return the number of steps that take this time; 1 before the second call."""
        return secs * self.steps / self.secs if self.steps else 1
