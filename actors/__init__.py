"""An actor framework: typed handlers, bounded mailboxes, monitors, supervisors, and links between
processes.
"""

from importlib import import_module
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
    Dialer,
    Entropy,
    Exit,
    File,
    FileLock,
    Files,
    Listener,
    Log,
    Nanos,
    Network,
    Page,
    Ports,
    Processes,
    Sent,
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
from actors.transport.accept import PeerListener
from actors.transport.core import EndpointCounters, EndpointLimits
from actors.transport.endpoint import Endpoint
from actors.transport.frame import FRAME_BYTES_MAX
from actors.transport.peer import Peer

if TYPE_CHECKING:
    from actors.runtime.loop import real_ports, run
    from actors.runtime.process import collect_when_idle, freeze_memory, on_terminate, process_id
    from actors.runtime.thread import LoopEnded, LoopThread, runs_loop

# Of the real world only: whoever lives in the simulated one, or in an executor child, does not load it.
_LAZY = {
    "LoopEnded": "thread",
    "LoopThread": "thread",
    "collect_when_idle": "process",
    "freeze_memory": "process",
    "on_terminate": "process",
    "process_id": "process",
    "real_ports": "loop",
    "run": "loop",
    "runs_loop": "thread",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"actors.runtime.{module}"), name)


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
    "Dialer",
    "Down",
    "Endpoint",
    "EndpointCounters",
    "EndpointLimits",
    "Entropy",
    "Exit",
    "ExitReason",
    "FRAME_BYTES_MAX",
    "Failed",
    "File",
    "FileLock",
    "Files",
    "Killed",
    "Listener",
    "Locked",
    "Log",
    "LoopEnded",
    "LoopThread",
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
    "PeerListener",
    "PeerLog",
    "Ports",
    "Processes",
    "Ref",
    "Refusal",
    "Reply",
    "Restart",
    "RestartChild",
    "SECOND",
    "Sent",
    "Shutdown",
    "StartChild",
    "StartFailed",
    "Strategy",
    "Supervisor",
    "SupervisorSpec",
    "TerminateChild",
    "WhichChildren",
    "collect_when_idle",
    "freeze_memory",
    "handles",
    "on_terminate",
    "process_id",
    "real_ports",
    "run",
    "runs_loop",
]
