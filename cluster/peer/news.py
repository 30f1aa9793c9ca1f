"""What replicas tell each other beside Raft: wall clocks, for the leader's stamp, and digests, to compare."""

from actors import Clock, Log, Nanos
from cluster.peer.stamp import ALARM_AHEAD_MS, StampClock, median_ms
from cluster.wire import ClockNews

DIGESTS_KEPT_MAX = 64


class ReplicaNews:
    """News of one broker about itself and the others."""

    __slots__ = ("_clock", "_digests", "_log", "_node", "_offsets_ms", "_stamps")

    def __init__(self, node: str, clock: Clock, log: Log) -> None:
        self._node = node
        self._clock = clock
        self._log = log
        self._offsets_ms: dict[int, int] = {}       # node id -> its wall clock minus ours
        self._digests: dict[int, int] = {}          # our newest by index
        self._stamps: StampClock | None = None      # of the term that this broker leads

    def own(
        self,
        digest_index: int,
        digest: int,
        *,
        lacks_room: bool = False,
        needs_state: bool = False,
        applied_index: int = 0,
        compacting: int = 0,
        ending: bool = False,
    ) -> ClockNews:
        """What to tell the others now."""
        digests = self._digests
        digests[digest_index] = digest
        while len(digests) > DIGESTS_KEPT_MAX:
            del digests[next(iter(digests))]
        wall_ms = self._clock.wall_ms()
        return ClockNews(wall_ms, digest_index, digest, lacks_room, needs_state, applied_index, compacting, ending)

    def heard(self, node_id: int, node: str, news: ClockNews) -> None:
        """Another broker's news; an alarm if its replica decided differently."""
        self._offsets_ms[node_id] = news.wall_ms - self._clock.wall_ms()
        own = self._digests.get(news.digest_index)
        if own is not None and own != news.digest:
            self._log.event(
                "digests_differ",
                index=news.digest_index,
                node=self._node,
                digest=own,
                other=node,
                other_digest=news.digest,
                action="the replicas decided differently: stop the cluster and keep every data directory",
            )

    def lead(self, last_stamp_ms: int) -> None:
        """A term of ours begins: its stamps go on from the last one in the state."""
        target_ms = self._target_ms()
        if last_stamp_ms - target_ms > ALARM_AHEAD_MS:
            self._log.event(
                "stamp_ahead",
                node=self._node,
                ahead_ms=last_stamp_ms - target_ms,
                action="set the brokers' clocks right: delays and times-to-live are judged by them",
            )
        self._stamps = StampClock(last_stamp_ms, target_ms, self._clock.now())

    def stamp_ms(self) -> int:
        """The leader's time of day. Only after `lead`."""
        assert self._stamps is not None
        now: Nanos = self._clock.now()
        return self._stamps.read(now, self._target_ms())

    def wait(self, date_ms: int) -> Nanos:
        """How long until `stamp_ms` gives this date. Only after `lead`."""
        assert self._stamps is not None
        return self._stamps.wait(date_ms, self._clock.now(), self._target_ms())

    def _target_ms(self) -> int:
        wall_ms = self._clock.wall_ms()
        return median_ms([wall_ms, *(wall_ms + offset for offset in self._offsets_ms.values())])
