"""Sizes in bytes as users type them, and as they read them."""

import re

SIZE_BYTES_MAX = 1 << 50        # 1 PiB; beyond that a digit too many was typed

_UNITS = {
    "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_SIZE = re.compile(rf"(\d{{1,16}}(?:\.\d{{1,9}})?)({'|'.join(_UNITS)})", re.ASCII)
_SHOWN = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def size_bytes(what: str, value: object) -> int:
    """A size as whole bytes, rounded up: a number of bytes, or text such as "500MB" (10**6) or "1.5GiB" (2**30).

    Raises TypeError for another type, ValueError for text that is no size, and for one below 0 or above 1 PiB.
    """
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.replace(" ", "").lower())
        if found is None:
            raise ValueError(f'{what}: "{value}" is no size; write for example "500MB", "1.5GiB" or a number of bytes')
        whole, _, fraction = found[1].partition(".")
        scale: int = 10 ** len(fraction)
        size = -(-int(whole + fraction) * _UNITS[found[2]] // scale)
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise TypeError(f'{what}: expected text such as "500MB" or a whole number of bytes, not {value!r}')
    if not 0 <= size <= SIZE_BYTES_MAX:
        raise ValueError(f"{what}: {value!r} is out of range, 0 to 1 PiB are allowed")
    return size


def size_text(size: int) -> str:
    """Bytes for people: in the largest binary unit that it reaches, with one decimal."""
    for name, unit in _SHOWN:
        if size >= unit:
            return f"{size / unit:.1f} {name}".replace(".0 ", " ")
    return f"{size} B"
