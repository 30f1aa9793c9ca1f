"""Locks of the cluster: one holder at a time, or several, wherever they run.

Who holds a lock is in the log. A holder keeps it with the heartbeats that its client sends anyway; one that cannot
reach the cluster for its hold time loses it, and stops believing in it before another one gets it
(`cluster.client.holding`). What it is doing then is its own affair: an asyncio task inside `async with` is cancelled,
whoever asks is told, and resources that compare fences refuse the older one.

A lock object is one claim at a time. Each acquire is a claim of its own, in the session that is current then. One that
ends while it waits, because the cluster could not be reached for too long, is made again, at the end of the queue, and
replaces nobody then.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from msgspec import structs

from actors import MILLISECOND, SECOND, Nanos
from cluster.client.actor import SWEEP_INTERVAL, ClientActor
from cluster.client.blocking import BlockingClient
from cluster.client.claim import GIVES_WAY, HOLD, REPLACED, Claim, State, Wanted
from cluster.client.client import Client
from cluster.client.holding import margin_of
from cluster.durations import Duration, milliseconds, seconds
from cluster.errors import ClusterError, LockBusy, LockLost
from cluster.state.commands import HOLD_MS_MAX, HOLD_MS_MIN, LOCK_LIMIT_MAX, LOCK_NOTE_BYTES_MAX
from cluster.state.texts import NAME_BYTES_MAX

T = TypeVar("T")

PERMITS_MAX = LOCK_LIMIT_MAX - 1


class Own(Enum):
    """Stands for an argument that is not given."""

    WAIT = "as the lock says"


class AsyncLock:
    """A lock, a permit of a semaphore or one side of a read-write lock, for one holder at a time.

    `async with` waits for its turn. If the lock is lost, the asyncio task that entered is cancelled, and LockLost is
    raised where the block ends. `Lock`, `Semaphore` and `ReadWriteLock` make it.
    """

    def __init__(self, client: Client, wanted: Wanted, wait: float | None) -> None:
        self._client = client
        self._wanted = wanted
        self._wait = wait                           # in seconds
        self._is_acquiring = False
        self._claim: Claim | None = None            # from when it is held until it is released, or its end was told
        self._entered: _Entered | None = None

    @property
    def name(self) -> str:
        return self._wanted.name

    # -- to hold it ---------------------------------------------------------------------------------------------------

    async def acquire(self, wait: Duration | Own | None = Own.WAIT) -> int:
        """Waits for its turn and holds the lock from then on; returns the fence, which is higher than that of any
        earlier hold.

        `wait`, that of the lock if it is left out, is how long it waits for others: a duration, or None for as long as
        it takes. Raises LockBusy after that; Overloaded if too many wait; LockMismatch if the name is in use as another
        kind of lock; Unavailable and DeadlineExceeded if the cluster does not answer by the client's deadline;
        ClusterError if this object is acquired already. Whatever it raises, also when it is cancelled, nothing is held.
        """
        limit = self._wait if isinstance(wait, Own) else wait_seconds(wait)
        claim = await self._acquire(limit, waits=True)
        assert claim is not None, "it waits, or raises"
        return claim.fence

    async def try_acquire(self) -> bool:
        """Holds the lock if that is possible at once; False if others hold it, or wait for it. Raises as `acquire`, but
        for LockBusy."""
        return await self._acquire(None, waits=False) is not None

    async def release(self) -> None:
        """Gives the lock up; returns once a majority of the brokers has that on disk. It is not held from the call on,
        also if that raises Unavailable or DeadlineExceeded: then others get it as soon as the cluster hears of it, or
        after the hold time. Raises LockLost if it was lost before, ClusterError if it is not acquired."""
        claim, self._claim = self._claim, None
        if claim is None:
            raise self._not_acquired()
        now = self._now()
        if not claim.is_held(now):
            lost = claim.lost(now)
            claim.release()
            raise lost
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        claim.release(released, self._rest_ms(claim))
        await self._confirmed(released)

    def _rest_ms(self, claim: Claim) -> int:
        """For how long nobody is to get it after its release."""
        return 0

    async def extend(self, hold: Duration) -> None:
        """From now on this hold of the lock lasts through a silence of `hold`, before a long call that blocks the event
        loop for example. Returns once a majority of the brokers has that on disk. The next `acquire` has the lock's own
        hold time again. Raises LockLost, ClusterError if it is not acquired, Unavailable and DeadlineExceeded."""
        hold_ms = hold_milliseconds(hold)
        claim = self._held()
        extended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        claim.extend(hold_ms, extended)
        await self._confirmed(extended)

    # -- whether it is held -------------------------------------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock, by the clock: right also if the process was stopped until this moment."""
        claim = self._claim         # once: another thread may let it go meanwhile
        return claim is not None and claim.is_held(self._now())

    @property
    def fence(self) -> int:
        """That of the present hold. Raises LockLost, and ClusterError if it is not acquired."""
        return self._held().fence

    def assert_held(self) -> None:
        """Raises LockLost if the lock was lost, ClusterError if it is not acquired."""
        self._held()

    async def wait_lost(self) -> None:
        """Returns when this hold of the lock is over, whatever ended it: within 100 ms, for who runs something beside
        the event loop. Raises ClusterError if it is not acquired."""
        claim = self._claim
        if claim is None:
            raise self._not_acquired()
        while claim.is_held(self._now()):
            await asyncio.shield(claim.change())

    @property
    def margin(self) -> float:
        """In seconds: for so long others keep out, at least, after `wait_lost` has returned because the cluster fell
        silent. The time to end what runs under the lock."""
        return (margin_of(self._wanted.hold_ms * MILLISECOND) - SWEEP_INTERVAL) / SECOND

    def _held(self) -> Claim:
        claim = self._claim
        if claim is None:
            raise self._not_acquired()
        now = self._now()
        if not claim.is_held(now):
            raise claim.lost(now)
        return claim

    # -- with ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.acquire()
        assert self._claim is not None
        self._entered = _Entered(self._claim)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered, self._entered = self._entered, None
        assert entered is not None
        others_cancel = entered.leave()
        claim = entered.claim
        if entered.has_cancelled:
            self._let_go()
            is_ours = not others_cancel and isinstance(error, asyncio.CancelledError)
            if error is None or is_ours:
                raise claim.lost() from error
        elif self._claim is claim:          # else it was released inside
            await self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        """What the body raised goes before what its release raises, and one that is broken off waits for nothing."""
        if _breaks_off(error):
            self._let_go()
            return
        try:
            await self.release()
        except ClusterError:
            if error is None:
                raise

    def _let_go(self) -> None:
        """Releases it, if there is anything to release, without waiting for an answer."""
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.release()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _acquire(self, limit: float | None, *, waits: bool) -> Claim | None:
        """The claim that is held now; None if it was not to wait."""
        if self._is_acquiring or self._entered is not None or self.is_held:
            raise ClusterError(
                f'lock "{self.name}" is acquired already, or about to be: one object is one claim at a time and not '
                "reentrant; make another object of the same name for another claim"
            )
        self._let_go()                  # of one that was lost
        self._is_acquiring = True
        try:
            self._claim = await self._until_held(limit, waits=waits)
        finally:
            self._is_acquiring = False
        return self._claim

    async def _until_held(self, limit: float | None, *, waits: bool) -> Claim | None:
        client, begun, wanted = self._client, self._now(), self._wanted
        turn_by = None if limit is None else client._deadline_at(limit)
        while True:
            answer_by = client._deadline_at(client._deadline)
            actor = await client._session(client._sessions.for_claim, answer_by)
            claim = actor.acquire(wanted, waits=waits)
            try:
                await self._until_answered(claim, actor, answer_by)
                if claim.state is State.WAITING:
                    wanted = structs.replace(wanted, replaces=False)    # if it is made again, it is no newer for that
                await self._while_waiting(claim, begun, turn_by)
            except BaseException:
                claim.release()         # also if it is granted in this moment
                raise
            if claim.is_held(self._now()):
                return claim
            claim.release()
            if claim.state is State.BUSY:
                return None
            if claim.state is State.REPLACED:
                raise LockBusy(self.name, self._seconds_since(begun), REPLACED)
            if claim.error is not None:
                raise claim.error

    async def _until_answered(self, claim: Claim, actor: ClientActor, end: Nanos) -> None:
        def error() -> ClusterError:
            return actor.too_late("refused" if claim.state is State.QUEUED else "unknown")

        while claim.state in (State.QUEUED, State.ASKED):
            await self._client._within(claim.change(), self._client._left(end), error)

    async def _while_waiting(self, claim: Claim, begun: Nanos, end: Nanos | None) -> None:
        def error() -> ClusterError:
            return LockBusy(self.name, self._seconds_since(begun))

        while claim.state is State.WAITING:
            await self._client._within(claim.change(), None if end is None else self._client._left(end), error)

    async def _confirmed(self, future: "asyncio.Future[None]") -> None:
        """Waits for what is to be in the log, within the deadline of a request."""
        client = self._client
        await client._within(future, client._deadline, lambda: client._actor.too_late("unknown"))

    def _seconds_since(self, begun: Nanos) -> float:
        return (self._now() - begun) / SECOND

    def _now(self) -> Nanos:
        return self._client._ports.clock.now()

    def _not_acquired(self) -> ClusterError:
        return ClusterError(f'lock "{self.name}" is not acquired')

    def __repr__(self) -> str:
        return f'<{type(self).__name__} "{self.name}">'


class _Entered:
    """An `async with` whose body runs. If the lock is lost it cancels the task that entered, as `asyncio.timeout`
    does."""

    def __init__(self, claim: Claim) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.claim = claim
        self.has_cancelled = False
        self._task = task
        self._cancelling = task.cancelling()        # by others, before
        claim.on_lost = self._lose

    def _lose(self) -> None:
        if not self.has_cancelled:
            self.has_cancelled = True
            self._task.cancel()

    def give_way(self) -> None:
        """Somebody came to replace it, and waits for the end of the body."""
        self.claim.reason = GIVES_WAY
        self._lose()

    def leave(self) -> bool:
        """The body has ended. Whether others cancel the task, too."""
        self.claim.on_lost = lambda: None
        return self.has_cancelled and self._task.uncancel() > self._cancelling


class BlockingLock:
    """The same for programs without an event loop. A thread cannot be cancelled: that the lock is lost is told by
    `is_held`, by the next call, and where the `with` block ends. One thread at a time holds an object; each makes its
    own."""

    def __init__(self, client: BlockingClient, lock: AsyncLock) -> None:
        self._client = client
        self._lock = lock

    @property
    def name(self) -> str:
        return self._lock.name

    def acquire(self, wait: Duration | Own | None = Own.WAIT) -> int:
        """Waits for its turn and holds the lock from then on, as `AsyncLock.acquire`."""
        return self._run_or_let_go(lambda: self._lock.acquire(wait))

    def try_acquire(self) -> bool:
        """Holds the lock if that is possible at once, as `AsyncLock.try_acquire`."""
        return self._run_or_let_go(self._lock.try_acquire)

    def release(self) -> None:
        """Gives the lock up, as `AsyncLock.release`."""
        self._client.run(self._lock.release)

    def extend(self, hold: Duration) -> None:
        """From now on this hold of the lock lasts through a silence of `hold`, as `AsyncLock.extend`."""
        self._client.run(lambda: self._lock.extend(hold))

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock, by the clock, and in this process."""
        return self._is_held

    @property
    def fence(self) -> int:
        """That of the present hold. Raises LockLost, and ClusterError if it is not acquired."""
        self._client.check_process()
        return self._lock.fence

    def assert_held(self) -> None:
        """Raises LockLost if the lock was lost, ClusterError if it is not acquired."""
        self._client.check_process()
        self._lock.assert_held()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        claim = self._lock._claim
        if claim is None:
            return                      # it was released inside
        if (lost := self._lost(claim)) is not None:
            self._let_go()
            if error is None:
                self._client.check_process()
                raise lost
        elif _breaks_off(error):
            self._let_go()
        else:
            try:
                self.release()
            except ClusterError:
                if error is None:
                    raise

    @property
    def _is_held(self) -> bool:
        return not self._client.is_foreign and self._lock.is_held

    def _lost(self, claim: Claim) -> LockLost | None:
        """Why what its block did was not all done under the lock; None if it was."""
        return None if self._is_held else claim.lost(self._lock._now())

    def _run_or_let_go(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Who is interrupted (Ctrl-C) does not hold what may have been granted in that moment."""
        try:
            return self._client.run(make)
        except Exception:
            raise
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        async def let_go() -> None:
            self._lock._let_go()

        with suppress(ClusterError):    # the client was closed, and with it all its locks
            self._client.run(let_go)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} "{self.name}">'


AnyLock = TypeVar("AnyLock", AsyncLock, BlockingLock)


@overload
def Lock(
    cluster: Client, name: str, *, hold: Duration = HOLD, wait: Duration | None = None, note: str = ""
) -> AsyncLock: ...
@overload
def Lock(
    cluster: BlockingClient, name: str, *, hold: Duration = HOLD, wait: Duration | None = None, note: str = ""
) -> BlockingLock: ...
def Lock(  # noqa: N802 - reads as what it makes
    cluster: Client | BlockingClient, name: str, *, hold: Duration = HOLD, wait: Duration | None = None, note: str = ""
) -> AsyncLock | BlockingLock:
    """A lock that one holds at a time: `async with Lock(cluster, "nightly"):`, or `with` for a blocking client.

    `name` has 1 to 512 bytes; who uses the same name in the same cluster means the same lock. `hold`, 2 s to 1 h, is
    how long it stays held while the cluster hears nothing of its holder. `wait` is how long an `acquire` waits for
    others, None for as long as it takes. `note` is shown to people, up to 256 bytes. Raises TypeError and ValueError.
    """
    return _make(cluster, name, 1, 1, hold, wait, note)


@overload
def Semaphore(
    cluster: Client, name: str, permits: int, *, hold: Duration = HOLD, wait: Duration | None = None, note: str = ""
) -> AsyncLock: ...
@overload
def Semaphore(
    cluster: BlockingClient,
    name: str,
    permits: int,
    *,
    hold: Duration = HOLD,
    wait: Duration | None = None,
    note: str = "",
) -> BlockingLock: ...
def Semaphore(  # noqa: N802
    cluster: Client | BlockingClient,
    name: str,
    permits: int,
    *,
    hold: Duration = HOLD,
    wait: Duration | None = None,
    note: str = "",
) -> AsyncLock | BlockingLock:
    """A lock that `permits` hold at a time; all who use the name say the same number. The rest is as for `Lock`, with
    which it shares its names."""
    if not isinstance(permits, int) or isinstance(permits, bool):
        raise TypeError(f"permits: expected how many may hold it at a time, not {permits!r}")
    if not 1 <= permits <= PERMITS_MAX:
        raise ValueError(f"permits: {permits} is out of range, 1 to {PERMITS_MAX} are allowed")
    return _make(cluster, name, 1, permits, hold, wait, note)


class ReadWriteLock(Generic[AnyLock]):
    """A lock that many hold at a time to read, or one to write: `async with ReadWriteLock(cluster, "index").read():`.
    Each call of `read` and `write` makes a lock object. Who comes later waits behind those that wait, readers behind a
    writer too. The arguments are as for `Lock`, with which it shares its names."""

    @overload
    def __init__(
        self: "ReadWriteLock[AsyncLock]",
        cluster: Client,
        name: str,
        *,
        hold: Duration = ...,
        wait: Duration | None = ...,
        note: str = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "ReadWriteLock[BlockingLock]",
        cluster: BlockingClient,
        name: str,
        *,
        hold: Duration = ...,
        wait: Duration | None = ...,
        note: str = ...,
    ) -> None: ...
    def __init__(
        self,
        cluster: Client | BlockingClient,
        name: str,
        *,
        hold: Duration = HOLD,
        wait: Duration | None = None,
        note: str = "",
    ) -> None:
        self._make: Callable[[int], Any] = lambda units: _make(cluster, name, units, LOCK_LIMIT_MAX, hold, wait, note)
        self._make(1)           # raises what is wrong here, not later

    def read(self) -> AnyLock:
        """To hold with other readers."""
        made: AnyLock = self._make(1)
        return made

    def write(self) -> AnyLock:
        """To hold alone."""
        made: AnyLock = self._make(LOCK_LIMIT_MAX)
        return made


def _make(
    cluster: Client | BlockingClient,
    name: str,
    units: int,
    limit: int,
    hold: Duration,
    wait: Duration | None,
    note: str,
) -> AsyncLock | BlockingLock:
    wanted, patience = wanted_of(name, units, limit, hold, note), wait_seconds(wait)
    if isinstance(cluster, BlockingClient):
        return BlockingLock(cluster, AsyncLock(cluster._client, wanted, patience))
    return AsyncLock(checked_client(cluster), wanted, patience)


# -- what can be asked for --------------------------------------------------------------------------------------------


def checked_client(cluster: object) -> Client:
    if not isinstance(cluster, Client):
        raise TypeError(f"cluster: expected what Client.connect or Client.open gave, not {cluster!r}")
    return cluster


def wanted_of(
    name: str, units: int, limit: int, hold: Duration, note: str, at_most_ms: int = 0, *, replaces: bool = False
) -> Wanted:
    """Raises TypeError and ValueError, naming the argument."""
    size = _size("name", name, "a lock's name")
    if not 0 < size <= NAME_BYTES_MAX:
        raise ValueError(f"name: 1 to {NAME_BYTES_MAX} bytes of UTF-8 are allowed, not {size}")
    hold_ms = hold_milliseconds(hold)
    size = _size("note", note, "a few words")
    if size > LOCK_NOTE_BYTES_MAX:
        raise ValueError(f"note: up to {LOCK_NOTE_BYTES_MAX} bytes of UTF-8 are allowed, not {size}")
    return Wanted(name, units, limit, hold_ms, note, at_most_ms, replaces)


def hold_milliseconds(hold: object) -> int:
    hold_ms = milliseconds("hold", hold)
    if not HOLD_MS_MIN <= hold_ms <= HOLD_MS_MAX:
        raise ValueError(
            f"hold: {hold!r} is out of range, {HOLD_MS_MIN // 1_000} s to {HOLD_MS_MAX // 3_600_000} h are allowed"
        )
    return hold_ms


def wait_seconds(wait: object) -> float | None:
    """The argument `wait`, None for as long as it takes."""
    return None if wait is None else seconds("wait", wait)


def _size(what: str, text: object, expected: str) -> int:
    if not isinstance(text, str):
        raise TypeError(f"{what}: expected {expected} as a str, not {text!r}")
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what}: {text!r} is no valid Unicode") from None


def _breaks_off(error: BaseException | None) -> bool:
    """A task that is cancelled, a coroutine that is closed, Ctrl-C."""
    return error is not None and not isinstance(error, Exception)
