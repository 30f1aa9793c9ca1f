"""Who holds a lock, as it changes, for those who watch it.

The leader is asked, and every new leader again; each first says how things are. Only the last word waits for whoever
takes it.
"""

from asyncio import Future, get_running_loop

from actors import SECOND, Nanos, Peer
from cluster.errors import ClusterError
from cluster.wire import LockIs, WatchLock

ASK_AGAIN_AFTER: Nanos = 2 * SECOND     # nothing was said of a lock: the question, or its answer, was lost


class LockWatcher:
    """The last word on one lock, for one who takes it. It may be told that it is to ask another session."""

    def __init__(self) -> None:
        self.is_released = False
        self._word: LockIs | None = None
        self._error: ClusterError | None = None
        self._waiting: Future[None] | None = None

    def push(self, word: LockIs) -> None:
        self._word = word
        self._wake()

    def fail(self, error: ClusterError) -> None:
        """Nothing more comes, for this reason."""
        self._error = error
        self._wake()

    def release(self) -> None:
        """The session that was asked ends: ask the next one."""
        self.is_released = True
        self._wake()

    def take(self) -> LockIs | None:
        """What was said last; None if nothing was since it was last taken. Raises what this watcher failed of."""
        word, self._word = self._word, None
        if word is None and self._error is not None:
            raise self._error
        return word

    def arrival(self) -> "Future[None]":
        """Done as soon as there is something to take, or it is released."""
        future: Future[None] = get_running_loop().create_future()
        if self._word is not None or self._error is not None or self.is_released:
            future.set_result(None)
        else:
            self._waiting = future
        return future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class LockWatchers:
    """All watchers of locks of one session."""

    def __init__(self) -> None:
        self._of: dict[str, list[LockWatcher]] = {}
        self._unheard: dict[str, None] = {}         # asked for, and nothing was said yet; in order
        self._asked_at: Nanos = 0

    def join(self, name: str, watcher: LockWatcher, leader: Peer | None, now: Nanos) -> None:
        """One more watches a lock. Without a leader nobody is asked: the next one is asked for everything."""
        watcher.is_released = False
        self._of.setdefault(name, []).append(watcher)
        self._ask(leader, [name], now)

    def leave(self, name: str, watcher: LockWatcher, leader: Peer | None) -> None:
        watchers = self._of.get(name)
        if watchers is None or watcher not in watchers:
            return
        watchers.remove(watcher)
        if not watchers:
            del self._of[name]
            self._unheard.pop(name, None)
            if leader is not None:
                leader.send(WatchLock(name, stop=True))     # if it is lost, so be it: what comes is dropped

    def ask_all(self, leader: Peer, now: Nanos) -> None:
        """A new leader, or a new link to it."""
        self._ask(leader, list(self._of), now)

    def ask_again(self, leader: Peer, now: Nanos) -> None:
        if self._unheard and now - self._asked_at >= ASK_AGAIN_AFTER:
            self._ask(leader, list(self._unheard), now)

    def _ask(self, leader: Peer | None, names: list[str], now: Nanos) -> None:
        self._unheard.update(dict.fromkeys(names))
        self._asked_at = now
        for name in names:
            if leader is None or not leader.send(WatchLock(name)):
                return              # a full link: it is asked again

    def on_lock_is(self, word: LockIs) -> None:
        """From the leader."""
        self._unheard.pop(word.name, None)
        for watcher in self._of.get(word.name, ()):
            watcher.push(word)

    def fail(self, error: ClusterError) -> None:
        for watcher in self._take():
            watcher.fail(error)

    def release(self) -> None:
        for watcher in self._take():
            watcher.release()

    def _take(self) -> list[LockWatcher]:
        watchers = [watcher for some in self._of.values() for watcher in some]
        self._of.clear()
        self._unheard.clear()
        return watchers
