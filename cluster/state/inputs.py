"""What a task gets that needs others: how it travels from the state to the process that runs it. Light: that process
loads it."""

from msgspec import Struct

from cluster.state.effects import STATE_CANCELLED, STATE_COMPLETED, STATE_DEAD, STATE_EXPIRED, STATE_FAILED

END_NAMES = {
    STATE_COMPLETED: "completed",
    STATE_FAILED: "failed",
    STATE_DEAD: "dead",
    STATE_CANCELLED: "cancelled",
    STATE_EXPIRED: "expired",
}
ENDED_AS = {**END_NAMES, STATE_DEAD: "died", STATE_CANCELLED: "was cancelled"}
UNKNOWN_TASK = "is not known: its record is not kept any more, or there never was such a task"
INPUTS_MARK = b"\x93"      # the first byte of Inputs: an array of three. Clients make bodies that are an array of two


class End(Struct, array_like=True, gc=False, frozen=True):
    """What became of a task that another one needs. `body` is its result if it has one, `error_type` and `message` say
    why not. `state` is a STATE_*, or UNMET_UNKNOWN if that is not kept any more."""

    task: int
    state: int
    body: bytes = b""
    error_type: str = ""
    message: str = ""


class Inputs(Struct, array_like=True, gc=False, frozen=True):
    """The body of an assignment whose task needs others: the task's own, and what these became, in the order of its
    `Needs`. It begins with INPUTS_MARK."""

    body: bytes
    results: list[End]
    outcomes: list[End]


