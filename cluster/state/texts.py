"""Limits on texts that come from outside and stay in the state."""

NAME_BYTES_MAX = 512        # of a queue, a task name, a node or client, a label
LABELS_MAX = 64             # of a task, of a worker


def is_name(text: str) -> bool:
    # Characters are bounded first, so that the bytes of a megabyte are not made only to be counted.
    return 0 < len(text) <= NAME_BYTES_MAX and len(text.encode()) <= NAME_BYTES_MAX


def head(text: str, bytes_max: int) -> str:
    """The start of a text: at most `bytes_max` bytes of UTF-8, whole characters."""
    encoded = text.encode()
    return text if len(encoded) <= bytes_max else encoded[:bytes_max].decode(errors="ignore")


def tail(text: str, bytes_max: int) -> str:
    """The end of a text, likewise."""
    encoded = text.encode()
    return text if len(encoded) <= bytes_max else encoded[-bytes_max:].decode(errors="ignore")
