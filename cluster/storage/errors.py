"""What can go wrong with a log, besides `actors.errors.Locked`."""

from errno import EDQUOT, ENOSPC

NO_ROOM = frozenset({ENOSPC, EDQUOT})


def is_lack_of_room(error: BaseException) -> bool:
    """Whether this is the file system's word that nothing can be added: it passes when somebody makes room."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


class StorageError(Exception):
    """Base of the log's errors."""


class WalFailed(StorageError):
    """A write or a sync of the log failed; nothing more is written. The process must end: the next one recovers.

    It is never retried: after a failed sync the kernel may have dropped the very bytes that it could not
    write, and a second sync that succeeds would say nothing about them. `cause` is the operating system's
    error.
    """

    def __init__(self, operation: str, cause: BaseException) -> None:
        advice = "make room on that disk" if is_lack_of_room(cause) else "look at the disk"
        super().__init__(f"the log's {operation} failed: {cause}; a restart goes through recovery; {advice}")
        self.operation = operation
        self.cause = cause


class ForeignDirectory(StorageError):
    """The data directory belongs to another node or cluster; correct the topology's `data` path."""

    def __init__(self, path: str, what: str, expected: str, found: str) -> None:
        super().__init__(f"{path} belongs to {what} {found!r}, not {expected!r}")
        self.path = path
        self.what = what
        self.expected = expected
        self.found = found


class UnsupportedVersion(StorageError):
    """The file was written by a newer version of this program; start that one."""

    def __init__(self, path: str, version: int) -> None:
        super().__init__(f"{path} has format version {version}; start the newer version that wrote it")
        self.path = path
        self.version = version


class NoBeginning(StorageError):
    """The log does not go on behind a snapshot that can be read, and nobody else has the state; nothing was changed.
    Put a copy of the snapshot back, or of the whole directory. `first_index` is where the log begins, 0 if there is
    none; `snapshot_index` is that of the newest good snapshot, 0 if there is none."""

    def __init__(self, first_index: int, snapshot_index: int) -> None:
        log = f"the log begins with entry {first_index}" if first_index else "there is no log"
        snapshot = f"the snapshot ends with entry {snapshot_index}" if snapshot_index else "no snapshot can be read"
        super().__init__(f"{log}, and {snapshot}")
        self.first_index = first_index
        self.snapshot_index = snapshot_index


class DamagedRead(StorageError):
    """Bytes that were good when the log was opened can no longer be read; restart, recovery takes it from
    there."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path} at offset {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class UnreadablePiece(StorageError):
    """A file does not hold, or no longer holds, the entries of a plan that was made while the log was open: the
    segment has left the log since, or is damaged. Ask for a new plan; if that cannot be read either, look at the
    disk."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path} at offset {offset}: {reason}; plan again, then look at the disk")
        self.path = path
        self.offset = offset
        self.reason = reason


class SnapshotDamaged(StorageError):
    """The file is not the whole snapshot that somebody wrote. Use an older one, or another broker's."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path} at offset {offset}: {reason}; use another snapshot")
        self.path = path
        self.offset = offset
        self.reason = reason
