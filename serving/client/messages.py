"""Messages of a server, which are untrusted, as one line."""

import re

_MAX_MESSAGE_CHARS = 2000


def assertion_words(message: str) -> str:
    """Return a server's message; of an assertion in a model's graph, only its words.

    TensorFlow writes them in brackets, and after them the compared tensors and the graph's node.
    """
    # The message is untrusted, and the pattern's time is quadratic in the number of spaces.
    message = message[:_MAX_MESSAGE_CHARS]
    found = re.match(r"assertion failed: (\[.*?\])\s*(\[Condition |\[\[\{\{|$)", message, re.DOTALL)
    return " ".join(re.findall(r"\[(.*?)\]", found[1], re.DOTALL)) if found else message


def one_line(message: str) -> str:
    """Return an untrusted message as one line that is safe to print to a terminal."""
    words = " ".join(message[:_MAX_MESSAGE_CHARS].split())
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in words)
