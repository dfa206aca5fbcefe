"""Random texts, and copies of texts that differ a little."""

from random import Random


def random_texts(count: int, seed: int = 3) -> list[str]:
    rng = Random(seed)
    return [
        " ".join(
            "The " + " ".join(f"w{rng.randrange(3000)}" for _ in range(20)) + "." for _ in range(15)
        )
        for _ in range(count)
    ]


def changed(text: str, rate: float, rng: Random) -> str:
    """A copy with some words replaced, left out or swapped, and a header."""
    words = text.split()
    for _ in range(round(rate * len(words))):
        where = rng.randrange(len(words) - 1)
        change = rng.randrange(3)
        if change == 0:
            words[where] = f"x{rng.randrange(10**6)}"
        elif change == 1:
            del words[where]
        else:
            words[where : where + 2] = words[where : where + 2][::-1]
    header = ["Posted", "by", f"user{rng.randrange(10**6)}", "today:"]
    return " ".join(header * (rng.random() < 0.5) + words)
