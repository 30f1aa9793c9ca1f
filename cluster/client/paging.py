"""Lists that come page by page, so that no answer and no turn of a broker is as long as the list."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from cluster.wire import ListLocks, ListSchedules

if TYPE_CHECKING:
    from cluster.client.client import Client

Info = TypeVar("Info")          # as users see it


class Pages(ABC, Generic[Info]):
    """One list."""

    @abstractmethod
    async def page(self) -> list[Info]:
        """The next ones, at least one; [] at the end."""

    async def infos(self) -> AsyncIterator[Info]:
        while page := await self.page():
            for info in page:
                yield info


class Kind(NamedTuple):
    """Something that has names: what users call many of it, how it is asked for and in pages of how many, and the name
    of a row and what users see of it."""

    what: str
    question: type[ListLocks | ListSchedules]
    page_rows: int
    name_of: Callable[[Any], str]
    info_of: Callable[[Any], Any]


class NamedPages(Pages[Info]):
    """A list of what has names, in order of these, and begins with a prefix. Raises ValueError and TypeError for what
    cannot be asked."""

    def __init__(self, client: "Client", kind: Kind, prefix: str, limit: int | None, *, stale: bool) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: expected a str, not {prefix!r}")
        self._client = client
        self._kind = kind
        self._prefix = prefix
        self._left = checked_limit(kind.what, limit)
        self._stale = stale
        self._after = ""
        self._ended = self._left == 0

    async def page(self) -> list[Info]:
        if self._ended:
            return []
        client, kind, left = self._client, self._kind, self._left
        size = kind.page_rows if left is None else min(kind.page_rows, left)
        answer = await client._ask(
            lambda number: kind.question(number, self._after, size, self._prefix, self._stale),
            client._deadline_at(client._deadline),
            stale=self._stale,
        )
        if left is not None:
            self._left = left - len(answer.rows)
        self._ended = not answer.rows or not answer.more or self._left == 0
        if answer.rows:
            self._after = kind.name_of(answer.rows[-1])
        return [kind.info_of(row) for row in answer.rows]


def checked_limit(what: str, limit: int | None) -> int | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit: expected a number of {what}, not {limit!r}")
    if limit < 0:
        raise ValueError(f"limit: {limit} is negative")
    return limit
