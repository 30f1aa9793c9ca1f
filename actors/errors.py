"""Errors of the framework: few, flat, and each carries the data that the caller acts on."""

from actors.messages import ExitReason


class ActorError(Exception):
    """Base of all errors of `actors`."""


class Locked(ActorError):
    """Another process holds the lock file; stop it first, or choose another directory."""

    def __init__(self, path: str, pid: int | None) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(f"{path} is locked by {holder}")
        self.path = path
        self.pid = pid


class AddressInUse(ActorError):
    """Something else listens on this address; choose another, or stop what listens."""

    def __init__(self, address: str) -> None:
        super().__init__(f"address {address} is in use")
        self.address = address


class BadAddress(ActorError):
    """The address is not `host:port`, or this machine cannot bind it."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"address {address}: {why}")
        self.address = address


class NameTaken(ActorError):
    """A live actor has this name; names are unique within a system."""

    def __init__(self, name: str) -> None:
        super().__init__(f"an actor named {name!r} is running")
        self.name = name


class AskError(ActorError):
    """An ask ended without an answer. Each ask ends exactly once: with a value or with one of these."""


class AskTimeout(AskError, TimeoutError):
    """No answer before the deadline; whether the message was handled is unknown."""


class AskDied(AskError):
    """The actor ended before it answered; whether the message was handled is unknown."""

    def __init__(self, reason: ExitReason) -> None:
        super().__init__(f"the actor ended before it answered: {reason}")
        self.reason = reason


class AskOverloaded(AskError):
    """The mailbox was full: the message was not taken. Ask again later, less often."""


class AskNotFound(AskError):
    """No such actor, or it does not handle messages of this type. The message was not handled."""
