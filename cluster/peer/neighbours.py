"""Whether this broker may end by itself: the others must all be there, and none of them may be about to end as well.

Two operators who restart brokers at the same time ask two of them within the same moment. So a broker that is asked
says that it is ending, and waits a moment in which the same from another would arrive. Of two that say so at once, the
first in the topology goes, and the other one stays and says why.
"""

from collections.abc import Callable, Mapping

from actors import MILLISECOND, SECOND, Clock, Nanos
from cluster.wire import ClockNews

SILENCE = 3 * SECOND                    # without news, which come once a second: it hangs, or the network does
MOMENT = 300 * MILLISECOND              # for the word of another one to arrive; longer than any way there


class Neighbours:
    """The other brokers of one broker, `others` by number in the topology; `own` is its own number."""

    def __init__(
        self, own: int, others: Mapping[int, str], clock: Clock, is_up: Callable[[int], bool], tell: Callable[[], None]
    ) -> None:
        self._own = own
        self._others = dict(others)
        self._clock = clock
        self._is_up = is_up
        self._tell = tell
        self._heard: dict[int, Nanos] = {}      # the last sign of life
        self._ending: dict[int, bool] = {}      # said by the others
        self.ends = False                       # this broker: news say so

    @property
    def are_none(self) -> bool:
        return not self._others

    def linked(self, node_id: int) -> None:
        """A link stands again, perhaps to another process than before."""
        self._heard[node_id], self._ending[node_id] = self._clock.now(), False

    def heard(self, node_id: int, news: ClockNews) -> None:
        self._heard[node_id], self._ending[node_id] = self._clock.now(), news.ending

    def say_ending(self, ends: bool) -> None:
        """Tells the others at once."""
        self.ends = ends
        self._tell()

    def objection(self) -> str:
        """Why this broker must stay for now; "" if it may end."""
        now = self._clock.now()
        for node_id, name in self._others.items():
            if not self._is_up(node_id):
                return f"broker {name} is missing: there is no link to it"
            if now - self._heard.get(node_id, now) > SILENCE:
                return f"broker {name} is missing: it has said nothing for {SILENCE // SECOND} s"
            if self._ending.get(node_id) and (node_id < self._own or not self.ends):
                return f"broker {name} is about to end as well"
        return ""
