"""Elections: a lock whose holder leads, and says who it is; everybody may ask who leads, and watch."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import overload

from msgspec import Struct

from cluster.client.blocking import BlockingClient
from cluster.client.claim import HOLD
from cluster.client.client import Client
from cluster.client.lock_listing import holder_of
from cluster.client.lock_watching import LockWatcher
from cluster.client.locks import AsyncLock, BlockingLock, checked_client, wait_seconds, wanted_of
from cluster.durations import Duration
from cluster.errors import ClusterError
from cluster.state.lock_rows import Holder
from cluster.wire import ListLocks, LockRows


class Leader(Struct, frozen=True):
    """Who leads: what it says of itself, under which fence, by which client (the name of its session), and since when,
    by the cluster's clock."""

    note: str
    fence: int
    client: str
    since: datetime


class AsyncElection(AsyncLock):
    """A lock whose holder leads: `async with election:` waits until this one is elected, and cancels the asyncio task
    that entered if it leads no more. `Election` makes it."""

    async def leader(self) -> Leader | None:
        """Who leads now; None if nobody does. Raises Unavailable and DeadlineExceeded."""
        client = self._client
        answer: LockRows = await client._ask(
            lambda number: ListLocks(number, "", 1, name=self.name), client._deadline_at(client._deadline)
        )
        return _leader(answer.rows[0].holders) if answer.rows else None

    async def watch(self) -> AsyncGenerator[Leader | None, None]:
        """Who leads, now and whenever that changes: `async for leader in election.watch()`; None while nobody does. One
        who takes them slowly gets the last. It goes on through changes of brokers; raises Unavailable if the client was
        closed."""
        watcher = LockWatcher()
        last = -1                       # fence of the leader that was told last, 0 for nobody
        while True:
            actor = self._client._actor
            actor.watch_lock(self.name, watcher)
            try:
                while not watcher.is_released:
                    word = watcher.take()
                    if word is None:
                        await watcher.arrival()
                        continue
                    leader = _leader(word.holders)
                    fence = leader.fence if leader is not None else 0
                    if fence != last:
                        last = fence
                        yield leader
            finally:
                actor.unwatch_lock(self.name, watcher)


class BlockingElection(BlockingLock):
    """The same for programs without an event loop, as `BlockingLock` is."""

    _lock: AsyncElection

    def leader(self) -> Leader | None:
        """Who leads now; None if nobody does."""
        return self._client.run(self._lock.leader)

    def watch(self) -> Iterator[Leader | None]:
        """Who leads, now and whenever that changes: `for leader in election.watch()`."""
        leaders = self._lock.watch()

        async def take() -> Leader | None:
            return await anext(leaders)

        async def leave() -> None:
            await leaders.aclose()

        try:
            while True:
                yield self._client.run(take)
        finally:
            with suppress(ClusterError, RuntimeError):      # the client was closed, or the wait for it broken off
                self._client.run(leave)


@overload
def Election(
    cluster: Client, name: str, note: str, *, hold: Duration = HOLD, wait: Duration | None = None
) -> AsyncElection: ...
@overload
def Election(
    cluster: BlockingClient, name: str, note: str, *, hold: Duration = HOLD, wait: Duration | None = None
) -> BlockingElection: ...
def Election(  # noqa: N802 - reads as what it makes
    cluster: Client | BlockingClient, name: str, note: str, *, hold: Duration = HOLD, wait: Duration | None = None
) -> AsyncElection | BlockingElection:
    """A lock whose holder leads: `async with Election(cluster, "scheduler", "node-7"):`. `note` says who it is to those
    that ask for the leader. The rest is as for `Lock`, with which it shares its names."""
    wanted, patience = wanted_of(name, 1, 1, hold, note), wait_seconds(wait)
    if isinstance(cluster, BlockingClient):
        return BlockingElection(cluster, AsyncElection(cluster._client, wanted, patience))
    return AsyncElection(checked_client(cluster), wanted, patience)


def _leader(holders: Sequence[Holder]) -> Leader | None:
    """The one that holds the lock. One that rests has released it."""
    for holder in map(holder_of, holders):
        if not holder.rests:
            return Leader(holder.note, holder.fence, holder.client, holder.since)
    return None
