"""From the bytes of an entry to its commands.

An entry is `[[kind, machine_version, commands], ...]`. The outer list is decoded with the commands left raw,
because whether a group may be looked at depends on its kind and version alone. Each kind then has a decoder
of its own (`list[Submit]`, ...), which is faster than a union and cannot yield a command that its group does
not name.

What cannot be decoded is skipped and counted, on every replica alike: all of them run the same decoder over
the same bytes. Brokers propose only what they have decoded themselves, so this is a fence against our own
mistakes; but a replica that raised here would raise again after every restart.
"""

import msgspec
from msgspec import Raw

from cluster.state.commands import (
    Acquire,
    Arm,
    Cancel,
    Close,
    Command,
    Complete,
    Drain,
    Expire,
    Extend,
    Fire,
    Formation,
    Lapse,
    Register,
    Release,
    Replay,
    Resize,
    Seen,
    Stamp,
    Steer,
    Submit,
    Tick,
)

KINDS: dict[int, type[Command]] = {
    0: Stamp,
    1: Submit,
    2: Complete,
    3: Register,
    4: Expire,
    5: Close,
    6: Seen,
    7: Cancel,
    8: Tick,
    9: Formation,
    10: Drain,
    11: Replay,
    12: Acquire,
    13: Release,
    14: Extend,
    15: Lapse,
    16: Arm,
    17: Fire,
    18: Steer,
    19: Resize,
}

# ValueError covers msgspec's own errors and text that is not UTF-8. Nesting deep enough for a RecursionError
# does not pass the depth check at the transport.
UNDECODABLE = (ValueError, RecursionError)

Group = tuple[int, int, Raw]

_decode_groups = msgspec.msgpack.Decoder(list[Group]).decode
_decode_raws = msgspec.msgpack.Decoder(list[Raw]).decode
_decode_lists = {
    kind: msgspec.msgpack.Decoder(list[command]).decode  # type: ignore[valid-type]
    for kind, command in KINDS.items()
}
_decode_one = {kind: msgspec.msgpack.Decoder(command).decode for kind, command in KINDS.items()}


def decode_entry(payload: bytes) -> list[Group] | None:
    """The groups of an entry, their commands still encoded; None if the payload is no entry."""
    try:
        return _decode_groups(payload)
    except UNDECODABLE:
        return None


def decode_commands(kind: int, encoded: Raw) -> tuple[list[Command], int]:
    """The commands of a group of a known kind, and how many of them were undecodable and are left out.

    The slow path exists so that one bad command does not take those of other senders with it.
    """
    try:
        return _decode_lists[kind](encoded), 0
    except UNDECODABLE:
        pass
    try:
        raws = _decode_raws(encoded)
    except UNDECODABLE:
        return [], 1
    decode = _decode_one[kind]
    commands: list[Command] = []
    bad = 0
    for raw in raws:
        try:
            commands.append(decode(raw))
        except UNDECODABLE:
            bad += 1
    return commands, bad
