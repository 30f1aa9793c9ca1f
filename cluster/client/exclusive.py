"""Exclusive jobs: of all replicas of an application one does a job, whichever it is.

A turn is a lock with two durations. `at_most` bounds it, for a job that hangs in a process that lives: then its asyncio
task is cancelled, and others may have their turn. `at_least` keeps others out after a short job: a replica that comes
late with the same idea, since its clock is slow or it was busy, finds that it was done. Both are counted by clocks that
only run, never by the time of day.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Literal, ParamSpec, Self, TypeVar, get_args

from actors import MILLISECOND
from cluster.client.claim import GIVES_WAY, HOLD, REPLACED, Claim
from cluster.client.client import Client
from cluster.client.locks import AsyncLock, BlockingLock, Own, wait_seconds, wanted_of
from cluster.durations import Duration, duration_text, milliseconds
from cluster.errors import LockBusy, LockLost
from cluster.state.commands import TURN_MS_MAX

P = ParamSpec("P")
R = TypeVar("R")

OnBusy = Literal["skip", "wait", "queue", "replace"]
AT_MOST_MS_MIN = 1_000


class Terms:
    """What is asked for, checked. Raises TypeError and ValueError, naming the argument."""

    def __init__(
        self,
        name: str,
        *,
        at_most: Duration,
        at_least: Duration = 0,
        on_busy: OnBusy = "skip",
        wait: Duration | None = None,
        hold: Duration = HOLD,
        note: str = "",
    ) -> None:
        at_most_ms = _bounded("at_most", at_most, AT_MOST_MS_MIN)
        self.at_least_ms = _bounded("at_least", at_least, 0)
        _check_rest(at_most_ms, self.at_least_ms)
        if on_busy not in get_args(OnBusy):
            allowed = ", ".join(f'"{word}"' for word in get_args(OnBusy))
            raise ValueError(f"on_busy: {on_busy!r} is none of {allowed}")
        if on_busy == "wait" and wait is None:
            raise ValueError('wait: on_busy="wait" has to say for how long; on_busy="queue" waits as long as it takes')
        if on_busy in ("skip", "queue") and wait is not None:
            raise ValueError(f'wait: {wait!r} is not looked at with on_busy="{on_busy}"; take on_busy="wait"')
        self.wanted = wanted_of(name, 1, 1, hold, note, at_most_ms, replaces=on_busy == "replace")
        self.wait = wait_seconds(wait)
        self.waits = on_busy != "skip"


class AsyncTurn(AsyncLock):
    """One replica's turn to do a job: `async with cluster.exclusive(...) as turn:`, or a decorator of `async def`
    functions. `Client.exclusive` makes it."""

    def __init__(self, client: Client, terms: Terms) -> None:
        super().__init__(client, terms.wanted, terms.wait)
        self._terms = terms

    async def acquire(self, wait: Duration | Own | None = Own.WAIT) -> int:
        """Has its turn from then on; returns the fence. Raises LockBusy if it does not wait, or has waited for as long
        as it was to; the rest is as for a lock."""
        if self._terms.waits:
            return await super().acquire(wait)
        if not await self.try_acquire():
            raise LockBusy(self.name, 0, "another one has its turn, or had it a moment ago")
        return self.fence

    async def prolong(self, at_most: Duration | None = None) -> None:
        """Its time begins anew, with another bound if one is given. Returns once a majority of the brokers has that on
        disk. `at_least` counts from when the turn began, as before. Raises LockLost, ClusterError if it is not
        acquired, ValueError if the bound is shorter than `at_least`, Unavailable and DeadlineExceeded."""
        at_most_ms = self._wanted.at_most_ms if at_most is None else _bounded("at_most", at_most, AT_MOST_MS_MIN)
        _check_rest(at_most_ms, self._terms.at_least_ms)
        claim = self._held()
        prolonged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        claim.extend(0, prolonged, at_most_ms)
        await self._confirmed(prolonged)

    async def __aenter__(self) -> Self:
        begun = self._now()
        await super().__aenter__()
        entered = self._entered
        assert entered is not None
        if entered.claim.is_wanted:         # since it was granted: nothing was begun that would have to be broken off
            entered.leave()
            self._entered = None
            self._let_go()
            raise LockBusy(self.name, self._seconds_since(begun), REPLACED)
        entered.claim.on_wanted = entered.give_way
        return self

    def _rest_ms(self, claim: Claim) -> int:
        """Counted from when this one knew that it had its turn, so others stay out for at_least or a little more."""
        return max(0, self._terms.at_least_ms - (self._now() - claim.held_since) // MILLISECOND)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R | None]]:
        """Decorates: each call is a turn of its own, and returns None if it was skipped. Raises TypeError if it is no
        `async def` function."""
        if not _is_async(function):
            raise TypeError(f"{_name_of(function)} is no async def function; write it so, or use a blocking client")

        @functools.wraps(function)
        async def exclusive(*args: P.args, **kwargs: P.kwargs) -> R | None:
            result: R | None = None
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(AsyncTurn(self._client, self._terms))
                except LockBusy:
                    if self._terms.waits:
                        raise
                else:
                    result = await function(*args, **kwargs)
            return result

        return exclusive


class BlockingTurn(BlockingLock):
    """The same for programs without an event loop. A thread cannot be cancelled: a job that may take too long, or be
    replaced, looks at `is_held` now and then. Once that has said that somebody came to replace it, it has to end: the
    turn is over where its block ends, which raises LockLost. A job that did not look was done in its turn."""

    _lock: AsyncTurn
    _told: Claim | None = None      # that somebody waits for its end

    @property
    def is_held(self) -> bool:
        """Whether it is still this one's turn, by the clock and in this process, and nobody came to replace it."""
        return self._is_held and not self._gives_way()

    def assert_held(self) -> None:
        """Raises LockLost if the turn is over, or somebody came to replace it, ClusterError if it is not acquired."""
        super().assert_held()
        if self._gives_way():
            assert self._told is not None
            raise self._told.lost()

    def _gives_way(self) -> bool:
        """Whether somebody came to replace it. Its owner is told so, and has to end from then on."""
        claim = self._lock._claim
        if claim is None or not claim.is_wanted:
            return False
        claim.reason = claim.reason or GIVES_WAY
        self._told = claim
        return True

    def _lost(self, claim: Claim) -> LockLost | None:
        return claim.lost() if self._told is claim else super()._lost(claim)

    def prolong(self, at_most: Duration | None = None) -> None:
        """Its time begins anew, as by `AsyncTurn.prolong`."""
        self._client.run(lambda: self._lock.prolong(at_most))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Decorates: each call is a turn of its own, and returns None if it was skipped. Raises TypeError if it is an
        `async def` or a generator function, which would run when the turn is over."""
        if _is_async(function):
            raise TypeError(f"{_name_of(function)} is an async def function, which an asynchronous client can decorate")
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(
                f"{_name_of(function)} is a generator function, whose body would run when the turn is over; decorate "
                "what takes all that it yields"
            )

        @functools.wraps(function)
        def exclusive(*args: P.args, **kwargs: P.kwargs) -> R | None:
            result: R | None = None
            with ExitStack() as stack:
                try:
                    stack.enter_context(BlockingTurn(self._client, AsyncTurn(self._lock._client, self._lock._terms)))
                except LockBusy:
                    if self._lock._terms.waits:
                        raise
                else:
                    result = function(*args, **kwargs)
            return result

        return exclusive


def _is_async(function: Callable[..., object]) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


def _name_of(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _check_rest(at_most_ms: int, at_least_ms: int) -> None:
    if at_least_ms > at_most_ms:
        raise ValueError(
            f"at_least: {duration_text(at_least_ms)} is longer than at_most, {duration_text(at_most_ms)}: a turn that "
            "is over keeps nobody out"
        )


def _bounded(what: str, given: object, least_ms: int) -> int:
    found = milliseconds(what, given)
    if not least_ms <= found <= TURN_MS_MAX:
        least = f"{least_ms // 1_000} s" if least_ms else "0"
        raise ValueError(f"{what}: {given!r} is out of range, {least} to {TURN_MS_MAX // 86_400_000} days are allowed")
    return found
