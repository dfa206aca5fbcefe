"""How fast a training is, from the time that its calls take."""


class Throughput:
    """A clock that counts the calls of the compiled loop, except for the first, which compiles.

    Attributes:
        batch_size: examples per update.
        steps: updates counted.
        positions: positions trained on in these updates, padding included.
        secs: time that they took.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps, self.positions, self.secs = 0, 0.0, 0.0
        self._is_compiled = False

    def add(self, steps: int, positions: float, secs: float) -> None:
        """Count a call.

        Args:
            steps: updates that it did.
            positions: in all of them, padding included.
            secs: time that it took.
        """
        if self._is_compiled:
            self.steps += steps
            self.positions += positions
            self.secs += secs
        self._is_compiled = True

    @property
    def steps_per_sec(self) -> float:
        """Updates per second."""
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
        """Return how many updates take this long; 1 as long as none has been counted."""
        return secs * self.steps / self.secs if self.steps else 1
