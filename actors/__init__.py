"""An actor framework: typed handlers, bounded mailboxes, monitors, supervisors, and links between
processes.
"""

from typing import TYPE_CHECKING, Any

from actors.actor import Actor, handles
from actors.asks import Reply
from actors.context import Context
from actors.errors import (
    ActorError,
    AddressInUse,
    AskDied,
    AskError,
    AskNotFound,
    AskOverloaded,
    AskTimeout,
    BadAddress,
    Locked,
    NameTaken,
)
from actors.mailbox import MailboxSpec, Overflow
from actors.messages import (
    Crashed,
    Down,
    ExitReason,
    Failed,
    Killed,
    Lost,
    Normal,
    NotFound,
    Shutdown,
)
from actors.ref import Ref
from actors.runtime.ports import (
    MICROSECOND,
    MILLISECOND,
    SECOND,
    Buffer,
    Cancel,
    Child,
    Clock,
    Entropy,
    Exit,
    File,
    FileLock,
    Files,
    Log,
    Nanos,
    Network,
    Page,
    Ports,
    Processes,
)
from actors.supervision.spec import Backoff, ChildSpec, Restart, Strategy, SupervisorSpec
from actors.supervision.strategy import Refusal
from actors.supervision.supervisor import (
    ChildAnswer,
    ChildStatus,
    DeleteChild,
    RestartChild,
    StartChild,
    StartFailed,
    Supervisor,
    TerminateChild,
    WhichChildren,
)
from actors.system import ActorSystem
from actors.telemetry.log import PeerLog
from actors.transport.core import EndpointCounters, EndpointLimits
from actors.transport.endpoint import Endpoint
from actors.transport.peer import Peer

if TYPE_CHECKING:
    from actors.runtime.loop import real_ports, run

_LAZY = ("real_ports", "run")    # they load uvloop and ZeroMQ, which most child processes do not need


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from actors.runtime import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [  # noqa: RUF022  (plain order: easier to find a name in)
    "Actor",
    "ActorError",
    "ActorSystem",
    "AddressInUse",
    "AskDied",
    "AskError",
    "AskNotFound",
    "AskOverloaded",
    "AskTimeout",
    "Backoff",
    "BadAddress",
    "Buffer",
    "Cancel",
    "Child",
    "ChildAnswer",
    "ChildSpec",
    "ChildStatus",
    "Clock",
    "Context",
    "Crashed",
    "DeleteChild",
    "Down",
    "Endpoint",
    "EndpointCounters",
    "EndpointLimits",
    "Entropy",
    "Exit",
    "ExitReason",
    "Failed",
    "File",
    "FileLock",
    "Files",
    "Killed",
    "Locked",
    "Log",
    "Lost",
    "MICROSECOND",
    "MILLISECOND",
    "MailboxSpec",
    "NameTaken",
    "Nanos",
    "Network",
    "Normal",
    "NotFound",
    "Overflow",
    "Page",
    "Peer",
    "PeerLog",
    "Ports",
    "Processes",
    "Ref",
    "Refusal",
    "Reply",
    "Restart",
    "RestartChild",
    "SECOND",
    "Shutdown",
    "StartChild",
    "StartFailed",
    "Strategy",
    "Supervisor",
    "SupervisorSpec",
    "TerminateChild",
    "WhichChildren",
    "handles",
    "real_ports",
    "run",
]
