"""The interaction files: a few nodes, the mail between them, and directives that move both.

Nothing happens by itself: a node works when a directive says so, mail waits until it is delivered or dropped, storage
threads until they are called. Everything that happens is printed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random

from cluster.raft.messages import Message, MessageType
from etcd.grammar import Argument, Directive, parse_line
from etcd.node import ELECTION_TICKS, HEARTBEAT_TICKS, Node, Options, Refused
from etcd.printers import (
    APPEND_THREAD,
    Mail,
    mail_of,
    show_entries,
    show_mail,
    show_progress,
    show_ready,
    show_role,
)

STABILIZE_PASSES_MAX = 10_000
_LEVELS = ("debug", "info", "warn", "error", "fatal", "none")
_QUIET = "none"


class Environment:
    """All nodes of one file."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.mail: list[Mail] = []          # on its way, in order
        self._level = "debug"
        self._text = ""
        self._below = Random(1).randrange   # nodes draw their election timeouts; no transcript may depend on it

    def run(self, directive: Directive) -> str:
        """Carries out a directive and those in its input, one for each line."""
        self._text = ""
        calls = [(directive.command, directive.arguments)]
        calls += [parse_line(line) for line in directive.input.splitlines() if line.strip()]
        for command, arguments in calls:
            try:
                COMMANDS[command](self, arguments)
            except Refused as error:
                self._text += str(error)    # errors show at every level
        return self._text

    # -- output -------------------------------------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        if self._level != _QUIET:
            self._text += text

    @contextmanager
    def _indented(self) -> Iterator[None]:
        outer, self._text = self._text, ""
        try:
            yield
        finally:
            self._text = outer + "".join(f"  {line}\n" for line in self._text.splitlines())

    def _each(self, arguments: list[Argument], doing: str, work: Callable[[Node], None]) -> None:
        nodes = self._named(arguments)
        for node in nodes:
            if len(nodes) == 1:
                work(node)
                continue
            self._print(f"> {node.id} {doing}\n")
            with self._indented():
                work(node)

    def _named(self, arguments: list[Argument]) -> list[Node]:
        return [self.nodes[int(argument.key)] for argument in arguments if not argument.values]

    def _first(self, arguments: list[Argument]) -> Node:
        return self.nodes[int(arguments[0].key)]

    # -- nodes and time -----------------------------------------------------------------------------------------------

    def add_nodes(self, arguments: list[Argument]) -> None:
        options = Options()
        bootstrap = False
        for argument in arguments[1:]:
            if argument.key not in OPTIONS:
                raise Refused(f"unknown option {argument.key}")
            options = OPTIONS[argument.key](options, argument.values)
            bootstrap = bootstrap or argument.key in _OF_SNAPSHOT
        if bootstrap and options.index <= 1:
            raise Refused("index must be specified as > 1 due to bootstrap")
        for _ in range(int(arguments[0].key)):
            node = Node(len(self.nodes) + 1, options, self._below)
            self.nodes[node.id] = node

    def campaign(self, arguments: list[Argument]) -> None:
        self._first(arguments).core.campaign()

    def compact(self, arguments: list[Argument]) -> None:
        node, index = self._first(arguments), int(arguments[1].key)
        node.log.compact(index)
        node.core.compacted(index + 1)
        self.raft_log(arguments)

    def forget_leader(self, arguments: list[Argument]) -> None:
        self._first(arguments).core.forget_leader()

    def propose(self, arguments: list[Argument]) -> None:
        node = self._first(arguments)
        node.propose(arguments[1].key.encode(), node.id)

    def report_unreachable(self, arguments: list[Argument]) -> None:
        self._first(arguments).core.unreachable(int(arguments[1].key))

    def send_snapshot(self, arguments: list[Argument]) -> None:
        """Sends one that the sender's core does not know of."""
        sender, recipient = self._named(arguments)
        mark = sender.log.snapshot()
        message = Message(MessageType.SNAPSHOT, recipient.id, sender.id, sender.core.term, snapshot=mark)
        self.mail.append(mail_of(message))
        self._print(show_mail(self.mail[-1]))

    def set_randomized_election_timeout(self, arguments: list[Argument]) -> None:
        ticks = next(int(argument.values[0]) for argument in arguments if argument.key == "timeout")
        self._first(arguments).core.randomized_election_ticks = ticks

    def tick_election(self, arguments: list[Argument]) -> None:
        self._tick(arguments, ELECTION_TICKS)

    def tick_heartbeat(self, arguments: list[Argument]) -> None:
        self._tick(arguments, HEARTBEAT_TICKS)

    def _tick(self, arguments: list[Argument], count: int) -> None:
        for _ in range(count):
            self._first(arguments).core.tick()

    # -- mail ---------------------------------------------------------------------------------------------------------

    def deliver(self, arguments: list[Argument]) -> None:
        recipients: list[tuple[int, bool]] = []
        kind = ""
        for argument in arguments:
            if argument.key == "drop":
                recipients += [(int(value), True) for value in argument.values]
            elif argument.key == "type":
                kind = argument.values[-1]
            else:
                recipients.append((int(argument.key), False))
        if sum(self._deliver(to, drop=drop, kind=kind) for to, drop in recipients) == 0:
            self._print("no messages\n")

    def _deliver(self, to: int, *, drop: bool = False, kind: str = "") -> int:
        chosen = [mail for mail in self.mail if self._is_for(mail, to, drop=drop, kind=kind)]
        self.mail = [mail for mail in self.mail if not self._is_for(mail, to, drop=drop, kind=kind)]
        for mail in chosen:
            self._print(f"{'dropped: ' if drop else ''}{show_mail(mail)}\n")
            if drop:
                continue
            try:
                self.nodes[to].step(mail)
            except Refused as error:
                self._print(f"{error}\n")
        return len(chosen)

    @staticmethod
    def _is_for(mail: Mail, to: int, *, drop: bool, kind: str) -> bool:
        return mail.to == to and not (drop and mail.is_local) and kind in ("", mail.kind)

    # -- work ---------------------------------------------------------------------------------------------------------

    def process_ready(self, arguments: list[Argument]) -> None:
        self._each(arguments, "handling Ready", self._handle_ready)

    def process_append_thread(self, arguments: list[Argument]) -> None:
        self._each(arguments, "processing append thread", self._append)

    def process_apply_thread(self, arguments: list[Argument]) -> None:
        self._each(arguments, "processing apply thread", self._apply)

    def _handle_ready(self, node: Node) -> None:
        self._carry_out(node, *node.take())

    def _carry_out(self, node: Node, effects: object, outgoing: list[Mail], advance: list[Mail]) -> None:
        self._print(show_ready(effects, outgoing))
        if effects is not None and not node.options.asynchronous:
            if effects.write is not None:
                node.store(effects.write.entries, effects.snapshot)
            if effects.committed:
                node.log.applied(effects.committed)
        for mail in outgoing:
            if isinstance(mail.to, int):
                self.mail.append(mail)
            else:
                (node.append_work if mail.to == APPEND_THREAD else node.apply_work).append(mail)
        for mail in advance:
            node.step(mail)

    def _append(self, node: Node) -> None:
        if not node.append_work:
            self._print("no append work to perform")
            return
        work = node.append_work.popleft()
        node.store(work.entries, work.snapshot)
        self._answer(work)

    def _apply(self, node: Node) -> None:
        if not node.apply_work:
            self._print("no apply work to perform")
            return
        work = node.apply_work.popleft()
        node.log.applied(work.entries)
        self._answer(work)

    def _answer(self, work: Mail) -> None:
        self._print(f"Processing:\n{show_mail(replace(work, responses=[]))}\nResponses:\n")
        self._print("".join(f"{show_mail(response)}\n" for response in work.responses))
        self.mail += work.responses

    def stabilize(self, arguments: list[Argument]) -> None:
        """Everything that can be done, until nothing can."""
        level = self._level
        for argument in arguments:
            if argument.key == "log-level":
                self._set_level(argument.values[-1])
        nodes = self._named(arguments) or list(self.nodes.values())
        for _ in range(STABILIZE_PASSES_MAX):
            if not self._stabilize_once(nodes):
                self._level = level
                return
        raise AssertionError("the nodes never come to rest")

    def _stabilize_once(self, nodes: list[Node]) -> bool:
        busy = False
        for node in nodes:
            effects, outgoing, advance = node.take()
            if effects is not None:
                busy = True
                self._print(f"> {node.id} handling Ready\n")
                with self._indented():
                    self._carry_out(node, effects, outgoing, advance)
        for node in nodes:
            if any(self._is_for(mail, node.id, drop=False, kind="") for mail in self.mail):
                busy = True
                self._print(f"> {node.id} receiving messages\n")
                with self._indented():
                    self._deliver(node.id)
        for doing, waiting, work in (
            ("append", lambda node: node.append_work, self._append),
            ("apply", lambda node: node.apply_work, self._apply),
        ):
            for node in nodes:
                if waiting(node):
                    busy = True
                    self._print(f"> {node.id} processing {doing} thread\n")
                while waiting(node):
                    with self._indented():
                        work(node)
        return busy

    # -- looking ------------------------------------------------------------------------------------------------------

    def log_level(self, arguments: list[Argument]) -> None:
        self._set_level(arguments[0].key)

    def _set_level(self, name: str) -> None:
        if name.lower() not in _LEVELS:
            raise Refused(f"log levels must be either of [{' '.join(_LEVELS).upper()}]")
        self._level = name.lower()

    def raft_log(self, arguments: list[Argument]) -> None:
        """What is stored, not what the node has in memory."""
        log = self._first(arguments).log
        if log.last_index() < log.first_index():
            self._print(f"log is empty: first index={log.first_index()}, last index={log.last_index()}")
        else:
            self._print(show_entries(log.entries(log.first_index(), log.last_index() + 1, 0)))

    def raft_state(self, arguments: list[Argument]) -> None:
        for node in self.nodes.values():
            core = node.core
            voter = "(Voter)" if core.tracker.config.is_voter(node.id) else "(Non-Voter)"
            self._print(f"{node.id}: {show_role(core.role)} {voter} Term:{core.term} Lead:{core.leader}\n")

    def status(self, arguments: list[Argument]) -> None:
        """A leader shows what it knows of each node; others know nothing."""
        core = self._first(arguments).core
        if core.leader == core.id:
            self._print(show_progress(core.tracker.progress))


def _ids(values: list[str]) -> tuple[int, ...]:
    return tuple(sorted(int(value) for value in values))


def _flag(values: list[str]) -> bool:
    return values[-1] == "true"


_OF_SNAPSHOT = frozenset(("voters", "learners", "index", "content"))
OPTIONS: dict[str, Callable[[Options, list[str]], Options]] = {
    "voters": lambda options, values: replace(options, voters=_ids(values)),
    "learners": lambda options, values: replace(options, learners=_ids(values)),
    "index": lambda options, values: replace(options, index=int(values[-1])),
    "content": lambda options, values: options,         # of the state machine, which transcripts never show
    "inflight": lambda options, values: replace(options, inflight=int(values[-1])),
    "async-storage-writes": lambda options, values: replace(options, asynchronous=_flag(values)),
    "prevote": lambda options, values: replace(options, pre_vote=_flag(values)),
    "checkquorum": lambda options, values: replace(options, check_quorum=_flag(values)),
    "read-only": lambda options, values: replace(options, lease_based_reads=values[-1] == "lease-based"),
    "max-committed-size-per-ready": lambda options, values: replace(options, applying_bytes_max=int(values[-1])),
}
COMMANDS: dict[str, Callable[[Environment, list[Argument]], None]] = {
    "add-nodes": Environment.add_nodes,
    "campaign": Environment.campaign,
    "compact": Environment.compact,
    "deliver-msgs": Environment.deliver,
    "forget-leader": Environment.forget_leader,
    "log-level": Environment.log_level,
    "process-append-thread": Environment.process_append_thread,
    "process-apply-thread": Environment.process_apply_thread,
    "process-ready": Environment.process_ready,
    "propose": Environment.propose,
    "raft-log": Environment.raft_log,
    "raft-state": Environment.raft_state,
    "report-unreachable": Environment.report_unreachable,
    "send-snapshot": Environment.send_snapshot,
    "set-randomized-election-timeout": Environment.set_randomized_election_timeout,
    "stabilize": Environment.stabilize,
    "status": Environment.status,
    "tick-election": Environment.tick_election,
    "tick-heartbeat": Environment.tick_heartbeat,
}
