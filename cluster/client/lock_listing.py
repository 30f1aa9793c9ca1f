"""What a user sees of locks: lists of them, with who holds each."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from cluster.client.paging import Kind, NamedPages
from cluster.state.commands import LOCK_LIMIT_MAX
from cluster.state.lock_rows import LOCK_ROWS_MAX, Holder, LockRow
from cluster.wire import ListLocks

if TYPE_CHECKING:
    from cluster.client.client import Client

MUTEX = "mutex"
READ_WRITE = "read-write lock"


class LockHolder(Struct, frozen=True):
    """Who holds a lock: under which fence, what it says of itself, by which client (the name of its session), and since
    when, by the cluster's clock. `writes`: it is the writer of a read-write lock. `rests`: it was released, and keeps
    others out for a while."""

    fence: int
    note: str
    client: str
    since: datetime
    writes: bool = False
    rests: bool = False


class LockInfo(Struct, frozen=True):
    """One lock that somebody holds or waits for. `kind` is "mutex", "semaphore of 5" or "read-write lock". `holders`
    are the first 16, in the order in which they got it; `held` is how many hold it, `waiting` how many wait."""

    name: str
    kind: str
    holders: tuple[LockHolder, ...]
    held: int
    waiting: int


def kind_of(limit: int) -> str:
    """What a lock with so many units is."""
    if limit == 1:
        return MUTEX
    return READ_WRITE if limit == LOCK_LIMIT_MAX else f"semaphore of {limit}"


def info_of(row: LockRow) -> LockInfo:
    holders = tuple(holder_of(holder) for holder in row.holders)
    return LockInfo(row.name, kind_of(row.limit), holders, row.held, row.waiting)


def holder_of(holder: Holder) -> LockHolder:
    since = datetime.fromtimestamp(holder.since_ms / 1_000, UTC)
    return LockHolder(holder.fence, holder.note, holder.client, since, holder.units == LOCK_LIMIT_MAX, holder.rests)


LOCKS = Kind("locks", ListLocks, LOCK_ROWS_MAX, lambda row: row.name, info_of)


class LockListing(NamedPages[LockInfo]):
    """One list of locks, page by page."""

    def __init__(self, client: "Client", prefix: str, limit: int | None, *, stale: bool) -> None:
        super().__init__(client, LOCKS, prefix, limit, stale=stale)
