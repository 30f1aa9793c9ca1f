"""Arguments of a task for people: plain values of its body, if JSON has them all.

A broker knows a body as bytes, and whoever looks at a task need not have its module. So values stay plain, as they
travelled: nothing is imported, and none is made into what an annotation asks for. A body comes from any client, and may
be none of ours: whatever cannot be told has a reason in its place.
"""

import msgspec
from msgspec import Struct

from cluster.dependencies import EXT_RESULT
from cluster.state.effects import STATE_COMPLETED
from cluster.state.status import DUPLICATE, STATE_NAMES
from cluster.state.task_rows import ARGUMENTS_BYTES_MAX

COMPLETED = STATE_NAMES[STATE_COMPLETED]
NOT_KEPT = "not kept: it has completed, and has its result in their place"
NEVER_KEPT = "not kept: it is a duplicate, and never runs"


class Call(Struct, frozen=True):
    """What a task was called with; None with the reason `why`."""

    args: tuple[object, ...] | None = None
    kwargs: dict[str, object] | None = None
    why: str = ""


def call_of(state: str, body: bytes | None, body_bytes: int) -> Call:
    """Of a task in this state, whose body of so many bytes was told or not."""
    if state in (COMPLETED, DUPLICATE):
        return Call(why=NOT_KEPT if state == COMPLETED else NEVER_KEPT)
    if body is None:
        return Call(why=f"{body_bytes} bytes; up to {ARGUMENTS_BYTES_MAX} are shown")
    try:
        args, kwargs = msgspec.msgpack.decode(body, type=tuple[tuple[object, ...], dict[str, object]], ext_hook=_shown)
        msgspec.json.encode((args, kwargs))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        return Call(why=f"{body_bytes} bytes that JSON cannot say: {error}")
    return Call(args, kwargs)


def _shown(code: int, data: memoryview) -> str:
    """What stands for a task that it needs."""
    return "<result>" if code == EXT_RESULT else "<outcome>"
