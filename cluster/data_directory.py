"""A node's own folder below the topology's `data`: held by one process at a time, and what the system may say of it.

Every node holds the lock `DATA/NAME/lock` while it runs, a worker too, although it stores nothing: a second process
under the name of one that runs would end that one's session, and its tasks would run again. A predecessor that is
still ending is waited for; the kernel lets go of its lock when it is dead.
"""

import asyncio
import errno

from actors import MILLISECOND, SECOND, Clock, FileLock, Files, Locked

LOCK_NAME = "lock"
LOCK_PATIENCE = 10 * SECOND
LOCK_RETRY = 100 * MILLISECOND

LOCKED_ADVICE = "is this node running already? stop that process first"
ROOM = "make room on that disk (a broker begins with about 128 MiB), or set another `data` in the topology"
RIGHTS = "let this user write there, or set another `data` in the topology"
ADVICE = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EROFS: "mount it writable, or set another `data` in the topology",
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
}
ADVICE_OTHERWISE = "`data` in the topology must name a folder that can be made and written"

# A failing disk, or a machine that is short of something for a while: the next start may go better.
MAY_PASS = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT,
})  # fmt: skip


class DataUnusable(Exception):
    """The data directory cannot be used as it is; the message names it, what the system said, and what to do."""

    def __init__(self, directory: str, error: OSError) -> None:
        code = errno.errorcode.get(error.errno or 0, "")
        said = f"{error.strerror} ({code})" if error.strerror and code else f"{type(error).__name__}: {error}"
        advice = ADVICE.get(error.errno or 0, ADVICE_OTHERWISE)
        super().__init__(f"the data directory {directory!r} cannot be used: {said}; {advice}")
        self.directory = directory


class NoRoom(DataUnusable):
    """There is a log that cannot go on for lack of room. Nothing is wrong but that: it is tried again."""


def may_pass(error: OSError) -> bool:
    """Whether a restart alone may mend it, so that nobody needs to be asked."""
    return error.errno in MAY_PASS


async def hold(files: Files, clock: Clock, directory: str) -> FileLock:
    """Makes the directory and takes its lock; waits up to LOCK_PATIENCE for another holder.

    Raises Locked, DataUnusable, and OSError if that may pass.
    """
    deadline = clock.now() + LOCK_PATIENCE
    while True:
        try:
            files.make_dirs(directory)
            return files.lock(f"{directory}/{LOCK_NAME}")
        except Locked:
            if clock.now() >= deadline:
                raise
        except OSError as error:
            if may_pass(error):
                raise
            raise DataUnusable(directory, error) from error
        await _pause(clock)


async def _pause(clock: Clock) -> None:
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    clock.call_at(clock.now() + LOCK_RETRY, lambda: None if over.done() else over.set_result(None))
    await over
