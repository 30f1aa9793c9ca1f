"""The supervision tree of one machine: each node's process behind an actor, all of them under one supervisor.

    Launch                   drains workers first, then brokers, and ends when all have ended
    └── Supervisor           one_for_one: a node that crashed is started again, at once, then with backoff
        ├── Node b1 ...      one process each, watched by pidfd

Workers are started when all brokers of this machine are ready, or have crashed: so a launch that must be refused,
because another one runs here or a port is taken, has disturbed nobody. A node that refuses to run (a port in use, a
foreign data directory) needs an operator; a restart would only fail again. Then everything stops, and the refusal says
why. One exception: a disk without room. Who has nothing yet is refused at the start; but a node that has run, and a
broker that has a log, goes on trying, because its neighbours are well, and room may come back.

A node that an operator ended through the cluster says so by its exit status. It is started again at once, without a
pause and without a line about a crash. If it is refused then (new code that cannot be imported, say), that is no reason
to stop its neighbours either: it is tried again until what is wrong is put right. A worker that was drained stays out:
a stand-in, which is no process, has its place until an operator asks for it again, or until `launch` ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from actors import (
    MILLISECOND,
    SECOND,
    Actor,
    Backoff,
    Child,
    ChildSpec,
    Crashed,
    Down,
    Exit,
    Ref,
    Restart,
    RestartChild,
    Shutdown,
    StartChild,
    Supervisor,
    SupervisorSpec,
    TerminateChild,
    handles,
)
from cluster.node_report import ASKED, EXIT_AGAIN, EXIT_UNUSABLE, REFUSED, Drained, Ready, decoder
from cluster.stand_in import StandIn, StandInConfig
from cluster.wire import CUT_OFF_UNKNOWN

DRAIN_TIMEOUT = 10 * SECOND             # from SIGTERM to SIGKILL of a node
BACKOFF = Backoff(min_ns=100 * MILLISECOND, max_ns=10 * SECOND, reset_after_ns=30 * SECOND)
RESTARTS_MAX = 1_000_000                # the supervisor never gives up: a machine that cannot start a node keeps trying
SIGTERM = 15
SIGKILL = 9
AGAIN = "again"                         # why a node has ended: to be started anew ...
OUT = "out"                             # ... or, a worker, to stay out; then a stand-in takes its place
PAGE_BYTES = 1                          # nodes share no memory with their supervisor


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One process: `entry` is `module:function`, called with `argument`. Brokers outlive workers."""

    name: str
    entry: str
    argument: bytes
    is_broker: bool
    stand_in: StandInConfig | None = None       # of a worker


@dataclass(frozen=True, slots=True)
class Stop:
    """The composition root -> Launch: drain and stop everything."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Launch -> Node: end your process, by SIGTERM, and in the end by SIGKILL."""


@dataclass(frozen=True, slots=True)
class Started:
    """Node -> Launch: I watch over this node's process now."""

    spec: NodeSpec
    ref: Ref[object]


@dataclass(frozen=True, slots=True)
class NodeReady:
    """Node -> Launch: my process says so."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeRefused:
    """Node -> Launch: my process says that an operator must help."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeDrained:
    """Node -> Launch: my process ends, and has ended so many tasks that still ran."""

    node: str
    cut_off: int


class Node(Actor):
    """One node's process. It ends with its process: `Crashed` lets the supervisor start another, `Normal` does not."""

    def __init__(self, spec: NodeSpec, launch: Ref[object], *, has_run: bool, was_asked: bool) -> None:
        self.spec = spec
        self.launch = launch
        self.has_run = has_run                  # an earlier process of this node was ready
        self.was_asked = was_asked              # an operator has ended an earlier one, to have it started again
        self._child: Child | None = None
        self._refusal = ""
        self._draining = False

    def started(self) -> None:
        self.launch.tell(Started(self.spec, self.context.self_ref))
        self._child = self.context.processes.spawn(
            self.spec.entry,
            self.spec.argument,
            page_bytes=PAGE_BYTES,
            on_frame=self.context.callback(self._reported),
            on_exit=self.context.callback(self._exited),
        )

    def stopped(self, reason: object) -> None:
        if self._child is not None:
            self._child.signal(SIGKILL)

    @handles
    def on_drain(self, message: Drain) -> None:
        self._draining = True
        if self._child is not None:
            self._child.signal(SIGTERM)
            self.context.timer("kill", DRAIN_TIMEOUT, self._kill)

    def _kill(self) -> None:
        if self._child is not None:
            self.context.log.event("node_killed", node=self.spec.name, reason="it did not stop within the drain time")
            self._child.signal(SIGKILL)

    def _reported(self, frame: bytes) -> None:
        report = decoder.decode(frame)
        if isinstance(report, Ready):
            self.launch.tell(NodeReady(self.spec.name))
        elif isinstance(report, Drained):
            self.launch.tell(NodeDrained(self.spec.name, report.cut_off))
        else:
            self._refusal = report.reason

    def _exited(self, how: Exit) -> None:
        self._child = None
        if self._draining:
            self.context.stop()
        elif how.code in ASKED:
            self.context.stop(Shutdown(AGAIN if how.code == EXIT_AGAIN else OUT))
        elif how.code in REFUSED and not self.was_asked and not (how.code == EXIT_UNUSABLE and self.has_run):
            reason = self._refusal or how.stderr.decode(errors="replace")
            self.launch.tell(NodeRefused(self.spec.name, reason))
            self.context.stop()
        else:
            why = {"reason": self._refusal} if self._refusal else {}
            self.context.log.event("node_exited", node=self.spec.name, code=how.code, signal=how.signal, **why)
            self.context.stop(Crashed(how.code, how.signal))


class Out(StandIn):
    """A drained worker's place in the tree."""

    def __init__(self, spec: NodeSpec, launch: Ref[object], config: StandInConfig, cut_off: int) -> None:
        super().__init__(spec.name, config, cut_off)
        self.spec = spec
        self.launch = launch

    def started(self) -> None:
        self.launch.tell(Started(self.spec, self.context.self_ref))
        super().started()

    def asked_back(self) -> None:
        self.context.stop(Shutdown(AGAIN))

    @handles
    def on_drain(self, message: Drain) -> None:
        self.context.stop()


class Launch(Actor):
    """The root. `refusal` is set if a node needed an operator."""

    def __init__(self, nodes: Sequence[NodeSpec]) -> None:
        self.nodes = nodes
        self.refusal: NodeRefused | None = None
        self._stopping = False
        self._draining_brokers = False
        self._alive: dict[int, Started] = {}    # by monitor
        self._ran: set[str] = set()             # nodes that were ready at least once
        self._asked_for: set[str] = set()       # nodes that an operator has ended at least once
        self._out: set[str] = set()             # of these, workers that are drained
        self._cut_off: dict[str, int] = {}      # tasks that these ended, where they have said it
        # Brokers that were neither ready nor have crashed yet; workers wait for them.
        self._awaited = {spec.name for spec in nodes if spec.is_broker}

    def started(self) -> None:
        first = tuple(self._child(spec) for spec in self.nodes if spec.is_broker or not self._awaited)
        supervisor = Supervisor(SupervisorSpec(first, intensity=RESTARTS_MAX, backoff=BACKOFF))
        self._supervisor: Ref[object] = self.context.spawn(supervisor, name="nodes")

    def _child(self, spec: NodeSpec) -> ChildSpec:
        return ChildSpec(spec.name, partial(self._node, spec), Restart.TRANSIENT)

    def _node(self, spec: NodeSpec) -> Actor:
        if spec.name in self._out and spec.stand_in is not None:
            cut_off = self._cut_off.get(spec.name, CUT_OFF_UNKNOWN)
            return Out(spec, self.context.self_ref, spec.stand_in, cut_off)
        has_run, was_asked = spec.name in self._ran, spec.name in self._asked_for
        return Node(spec, self.context.self_ref, has_run=has_run, was_asked=was_asked)

    @handles
    def on_ready(self, message: NodeReady) -> None:
        was_complete = len(self._ran) == len(self.nodes)
        self._ran.add(message.node)
        if len(self._ran) == len(self.nodes) and not was_complete:
            brokers = sum(spec.is_broker for spec in self.nodes)
            self.context.log.event("ready", brokers=brokers, workers=len(self.nodes) - brokers)
        self._await_no_more(message.node)

    def _await_no_more(self, node: str) -> None:
        if node in self._awaited:
            self._awaited.remove(node)
            if not self._awaited and not self._stopping:
                for spec in self.nodes:
                    if not spec.is_broker:
                        self._supervisor.tell(StartChild(self._child(spec)))

    @handles
    def on_started(self, message: Started) -> None:
        self._alive[self.context.monitor(message.ref)] = message
        if self._stopping:
            message.ref.tell(Drain())

    @handles
    def on_refused(self, message: NodeRefused) -> None:
        if self.refusal is None:
            self.refusal = message      # the stop follows when that node has ended

    @handles
    def on_drained(self, message: NodeDrained) -> None:
        self._cut_off[message.node] = message.cut_off

    @handles
    def on_stop(self, message: Stop) -> None:
        if not self._stopping:
            self._stopping = True
            self._drain(brokers=False)

    @handles
    def on_down(self, message: Down) -> None:
        ended = self._alive.pop(message.reference)
        if self.refusal is not None:
            self.on_stop(Stop())
        has_crashed = isinstance(message.reason, Crashed)
        if self._stopping:
            if has_crashed:
                self._supervisor.tell(TerminateChild(ended.spec.name))      # not again
            self._go_on()
        elif has_crashed:
            self._await_no_more(ended.spec.name)
        elif isinstance(message.reason, Shutdown) and message.reason.info in (AGAIN, OUT):
            self._asked(ended.spec, is_out=message.reason.info == OUT)

    def _asked(self, spec: NodeSpec, *, is_out: bool) -> None:
        """A node has ended as an operator asked; what follows it starts at once, as after no crash."""
        self._asked_for.add(spec.name)
        if is_out:
            self._out.add(spec.name)
        else:
            self._out.discard(spec.name)
            self._cut_off.pop(spec.name, None)
        self.context.log.event("node_out" if is_out else "node_again", node=spec.name)
        if not is_out or spec.stand_in is not None:
            self._supervisor.tell(RestartChild(spec.name))

    def _drain(self, *, brokers: bool) -> None:
        """Workers, then brokers: what workers finish is recorded."""
        for node in self._alive.values():
            if node.spec.is_broker is brokers:
                node.ref.tell(Drain())
        alive = {node.spec.name for node in self._alive.values()}
        for spec in self.nodes:
            if alive and spec.is_broker is brokers and spec.name not in alive:
                self._supervisor.tell(TerminateChild(spec.name))     # it may wait for its next start
        self._go_on()

    def _go_on(self) -> None:
        if not self._alive:
            self.context.stop()
        elif not self._draining_brokers and all(node.spec.is_broker for node in self._alive.values()):
            self._draining_brokers = True
            self._drain(brokers=True)
