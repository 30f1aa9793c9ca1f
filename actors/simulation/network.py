"""The Network port of simulated processes, and the handles by which faults break it.

The behaviour of links is described in `links.py`; here are those who use them. A listener knows its peers
by identity, and a new connection under a known identity takes it over, as ROUTER_HANDOVER does. A dialler
redials for ever, with exponential backoff. Neither learns more than real sockets tell: a dialler hears
`on_down`; a listener hears nothing, its `send` to a lost peer says `GONE` once its own kernel knows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from actors.errors import AddressInUse
from actors.runtime.ports import Nanos, Sent
from actors.simulation.connection import Connection, End
from actors.simulation.events import LINK_DOWN, LINK_UP, EventQueue
from actors.simulation.links import Fabric, NetworkLimits, Path
from actors.simulation.loop import Cut, Loop


@dataclass(frozen=True, slots=True)
class Cuts:
    """Paths that one fault cut; `Network.mend` takes it back."""

    paths: tuple[Path, ...]


class Network:
    """The network of a world: who listens where, which connections stand, and what is broken."""

    def __init__(self, queue: EventQueue, random: Random, limits: NetworkLimits) -> None:
        self.queue = queue
        self.fabric = Fabric(queue, random, limits)
        self.listeners: dict[str, SimListener] = {}     # by address
        self.homes: dict[str, str] = {}                 # address -> machine that listened there last
        self.connections: dict[Connection, None] = {}   # those with at least one open end, oldest first

    # Faults

    def cut(self, sources: Iterable[str], targets: Iterable[str], *, both_ways: bool = True) -> Cuts:
        """Cuts the paths from each machine of `sources` to each of `targets`; `mend` with the result
        undoes it."""
        fabric = self.fabric
        targets = list(targets)
        pairs = [(source, target) for source in sources for target in targets if source != target]
        paths = [fabric.path(*pair) for pair in pairs]
        if both_ways:
            paths += [fabric.path(target, source) for source, target in pairs]
        for path in paths:
            fabric.cut(path)
        return Cuts(tuple(paths))

    def partition(self, groups: Sequence[Iterable[str]]) -> Cuts:
        """Cuts all paths between machines of different groups; machines in no group keep theirs."""
        members = [list(group) for group in groups]
        paths: list[Path] = []
        for index, group in enumerate(members):
            for other in members[index + 1 :]:
                paths += self.cut(group, other).paths
        return Cuts(tuple(paths))

    def mend(self, cuts: Cuts) -> None:
        for path in cuts.paths:
            self.fabric.mend(path)

    def slow(self, source: str, target: str, extra_ns: Nanos) -> None:
        """Adds `extra_ns` to the delay of one direction; 0 ends it."""
        self.fabric.path(source, target).extra_ns = extra_ns

    def lose(self, source: str, target: str, ppm: int) -> None:
        """Lets that many of a million messages of one direction vanish; 0 ends it."""
        self.fabric.path(source, target).loss_ppm = ppm

    def break_links(self, machine: str, other: str | None = None, *, only: Random | None = None) -> int:
        """Resets the connections of a machine (to `other`), or one of them chosen by `only`; says how
        many."""
        found = [
            connection
            for connection in self.connections
            if machine in connection.machines and (other is None or {machine, other} == connection.machines)
        ]
        if only is not None and found:
            found = [only.choice(found)]
        for connection in found:
            connection.reset()
        return len(found)

    def garbage(self, address: str, remote: str) -> None:
        """Someone at `remote` sends bytes that are not our protocol to a listener."""
        listener = self.listeners.get(address)
        if listener is not None:
            listener.loop.deliver(listener.on_garbage, remote)

    # The end of processes and machines

    def process_ended(self, loop: Loop, end: End) -> None:
        """A kernel cleans up after a process, or vanishes with it."""
        for address in [address for address, listener in self.listeners.items() if listener.loop is loop]:
            del self.listeners[address]
        for connection in list(self.connections):
            if connection.dialer.loop is loop or connection.listener.loop is loop:
                connection.side_ended(loop, end)


class SimNetwork:
    """The Network port of one process."""

    def __init__(self, network: Network, loop: Loop, machine: str) -> None:
        self._network = network
        self._loop = loop
        self._machine = machine
        self._links: dict[SimListener | SimDialer, None] = {}   # that are open, oldest first
        self._closed = False

    def listen(
        self, address: str, *, on_message: Callable[[bytes, bytes], None], on_garbage: Callable[[str], None]
    ) -> "SimListener":
        self._check()
        if address in self._network.listeners:
            raise AddressInUse(address)
        listener = SimListener(
            self._network, self._loop, self._machine, address, on_message, on_garbage, self._forget
        )
        self._links[listener] = None
        return listener

    def dial(
        self, address: str, identity: bytes, *, on_message: Callable[[bytes], None],
        on_up: Callable[[], None], on_down: Callable[[], None],
    ) -> "SimDialer":
        self._check()
        dialer = SimDialer(
            self._network, self._loop, self._machine, address, identity, on_message, on_up, on_down, self._forget
        )
        self._links[dialer] = None
        return dialer

    def close(self) -> None:
        self._closed = True
        for link in tuple(self._links):
            link.close()

    def _check(self) -> None:
        if not self._loop.alive:
            raise Cut
        assert not self._closed, "the network of this process was closed"

    def _forget(self, link: "SimListener | SimDialer") -> None:
        del self._links[link]


class SimListener:
    """A bound socket."""

    def __init__(
        self, network: Network, loop: Loop, machine: str, address: str,
        on_message: Callable[[bytes, bytes], None], on_garbage: Callable[[str], None],
        on_close: "Callable[[SimListener], None]",
    ) -> None:
        self.network = network
        self.loop = loop
        self.machine = machine
        self.address = address
        self.on_message = on_message
        self.on_garbage = on_garbage
        self.on_close = on_close
        self.peers: dict[bytes, Connection] = {}    # as this kernel knows them: some may be gone already
        self.closed = False
        network.listeners[address] = self
        network.homes[address] = machine

    def send(self, peer: bytes, data: bytes) -> Sent:
        if not self.loop.alive:
            raise Cut
        connection = self.peers.get(peer)
        return Sent.GONE if connection is None else connection.to_dialer.send(data)

    def close(self) -> None:
        if not self.loop.alive or self.closed:
            return
        self.closed = True
        self.on_close(self)
        del self.network.listeners[self.address]
        for connection in list(self.peers.values()):
            connection.hang_up_listener()


class SimDialer:
    """A connection that is kept up by redialling."""

    def __init__(
        self, network: Network, loop: Loop, machine: str, address: str, identity: bytes,
        on_message: Callable[[bytes], None], on_up: Callable[[], None], on_down: Callable[[], None],
        on_close: "Callable[[SimDialer], None]",
    ) -> None:
        self.network = network
        self.loop = loop
        self.machine = machine
        self.address = address
        self.identity = identity
        self.on_message = on_message
        self.on_up = on_up
        self.on_down = on_down
        self.on_close = on_close
        self.connection: Connection | None = None   # set while this end is open
        self.closed = False
        self._backoff_ns = network.fabric.limits.reconnect_ns_min
        network.queue.push(loop.world_now(), self._dial, None)

    def send(self, data: bytes) -> Sent:
        if not self.loop.alive:
            raise Cut
        connection = self.connection
        if connection is None or not connection.dialer_up:
            return Sent.GONE
        return connection.to_listener.send(data)

    def close(self) -> None:
        if not self.loop.alive or self.closed:
            return
        self.closed = True
        self.on_close(self)
        if self.connection is not None:
            self.connection.hang_up_dialer()

    def _dial(self, _: object) -> None:
        """A connection attempt: there and back once for the handshake, or refused, or never answered."""
        if self.closed or not self.loop.alive:
            return
        network, fabric = self.network, self.network.fabric
        home = network.homes.get(self.address, self.machine)
        there, back = fabric.path(self.machine, home), fabric.path(home, self.machine)
        arrives = network.queue.now + fabric.delay(there, 0)
        if there.cuts or back.cuts:
            self._redial_after(fabric.limits.connect_ns_max)
        else:
            network.queue.push(arrives, self._knock, (there, back))

    def _knock(self, paths: tuple[Path, Path]) -> None:
        """The first packet reaches the other machine."""
        if self.closed or not self.loop.alive:
            return
        network, fabric = self.network, self.network.fabric
        there, back = paths
        listener = network.listeners.get(self.address)
        round_trip = fabric.delay(back, 0)
        if listener is None:
            self._redial_after(round_trip)
        elif listener.loop.paused or self.loop.paused or there.cuts or back.cuts:
            # A stopped process completes no handshake: its sockets' threads are stopped as well.
            self._redial_after(fabric.limits.connect_ns_max)
        else:
            self.connection = Connection(network.fabric, network.connections, self, listener, there, back)
            stands_at = network.queue.now + round_trip
            self.connection.to_dialer.last_arrival = stands_at      # nothing overtakes the handshake
            network.queue.push(stands_at, self.connection.dialer_learns, None)

    def came_up(self) -> None:
        self._backoff_ns = self.network.fabric.limits.reconnect_ns_min
        self.loop.trace.add(self.network.queue.now, self.loop.number, LINK_UP, 0)
        self.loop.deliver(self._run, self.on_up)

    def went_down(self, *, was_up: bool) -> None:
        """This end is closed: tells its owner and dials again."""
        self.connection = None
        if self.closed or not self.loop.alive:
            return
        if was_up:
            self.loop.trace.add(self.network.queue.now, self.loop.number, LINK_DOWN, 0)
            self.loop.deliver(self._run, self.on_down)
        self._redial_after(0)

    def receive(self, data: bytes) -> None:
        if not self.closed:
            self.on_message(data)

    def _run(self, callback: Callable[[], None]) -> None:
        if not self.closed:
            callback()

    def _redial_after(self, wait: Nanos) -> None:
        limits = self.network.fabric.limits
        pause = self._backoff_ns
        self._backoff_ns = min(pause * 2, limits.reconnect_ns_max)
        wait += self.network.fabric.between(pause, pause + pause // 2)
        self.network.queue.push(self.network.queue.now + wait, self._dial, None)
