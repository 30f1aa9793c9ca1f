"""How locks are shown: who holds one, and a row of a list of them."""

from msgspec import Struct

HOLDERS_SHOWN = 16      # of one lock; a semaphore may have many more
LOCK_ROWS_MAX = 250     # of one page: 3 MiB of notes and names at most


class Holder(Struct, array_like=True, gc=False, frozen=True):
    """Of a lock: `note` is what its claim says of itself, `client` the name of the session's owner, `since_ms` the
    stamp of the grant. For `at_most_ms` it may be held, 0 = for as long as its client lives. One that `rests` was
    released, and keeps others out for a while."""

    claim: int
    fence: int
    units: int
    note: str
    client: str
    since_ms: int
    at_most_ms: int = 0
    rests: bool = False


class LockRow(Struct, array_like=True, gc=False, frozen=True):
    """One lock: its first HOLDERS_SHOWN holders in order of their fences, how many hold it, and how many wait."""

    name: str
    limit: int
    holders: list[Holder]
    held: int
    waiting: int
