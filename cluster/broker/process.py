"""A broker process: its two actors on one loop, composed alike in the real and in the simulated world."""

from collections.abc import Callable

import msgspec

from actors import ActorSystem, AddressInUse, Endpoint, ExitReason, Failed, MailboxSpec, PeerLog, Ports
from cluster.broker.actor import Broker
from cluster.compaction.compactor import ENTRY as COMPACTOR_ENTRY
from cluster.data_directory import LOCKED_ADVICE
from cluster.node_report import (
    EXIT_AGAIN,
    EXIT_FAULT,
    EXIT_NO_ROOM,
    EXIT_OPERATOR,
    EXIT_UNUSABLE,
    Parent,
    Ready,
    Refused,
    encode,
)
from cluster.peer.actor import RaftPeer
from cluster.peer.config import BrokerConfig
from cluster.peer.reception import Reception

INCARNATION_BITS = 63
MAILBOX_MESSAGES_MAX = 65_536       # between the two actors; each turn adds a few, and both drain every turn
EXIT_STATUS = {
    "AddressInUse": EXIT_OPERATOR,
    "BadAddress": EXIT_OPERATOR,
    "BrokerRefused": EXIT_OPERATOR,
    "DataUnusable": EXIT_UNUSABLE,
    "ForeignDirectory": EXIT_OPERATOR,
    "Locked": EXIT_OPERATOR,
    "NewerState": EXIT_OPERATOR,
    "NoRoom": EXIT_NO_ROOM,
    "OlderState": EXIT_OPERATOR,
    "UnsupportedVersion": EXIT_OPERATOR,
}
ADVICE = {                          # where the error itself does not say what to do
    "AddressInUse": "stop what listens there, or give this broker another `address` in the topology",
    "BadAddress": "give this broker an address of this machine",
    "ForeignDirectory": "move that directory away, or correct `data` in the topology",
    "Locked": LOCKED_ADVICE,
}
BULK_ADVICE = (                     # the user need not have written that one
    "it is this broker's bulk port, 1000 above that of its `address` unless `bulk_address` says another; stop what "
    "listens there, or give this broker another of these in the topology"
)
KNOWN_FAULTS = ("BrokerFault", "WalFailed")


def start_broker(
    ports: Ports,
    config: BrokerConfig,
    pid: int,
    on_fault: Callable[[ExitReason], None],
    on_ready: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> ActorSystem:
    """Starts RaftPeer and Broker. `on_fault` is told if one of them ends by itself: the process must end then.
    `on_ready` is called when the log is open and the addresses are bound, `on_end` when an operator wants this broker
    to end in order and to be started again.
    """
    system = ActorSystem(ports, node=config.node)
    incarnation = ports.entropy.bits(INCARNATION_BITS)
    identity = b"\x01" + ports.entropy.bits(120).to_bytes(15, "big")
    endpoint = Endpoint(ports, identity, turn=system.turn)
    reception = Reception(endpoint, config.cluster, PeerLog(ports.log, ports.clock))
    raft = RaftPeer(config, reception, endpoint, incarnation)
    raft.on_ready = on_ready
    mailbox = MailboxSpec(MAILBOX_MESSAGES_MAX)
    raft_ref = system.spawn(raft, name="raft", mailbox=mailbox)
    broker = Broker(config.node, pid, raft, reception, on_end)
    raft.broker = system.spawn(broker, name="broker", mailbox=mailbox)

    def ended(reason: ExitReason) -> None:
        endpoint.close()
        on_fault(reason)

    system.on_exit(raft_ref, ended)
    system.on_exit(raft.broker, on_fault)
    return system


def run_broker(parent: Parent, argument: bytes) -> None:
    """The entry of a broker's process, as `launch` spawns it."""
    from actors import run

    config = msgspec.msgpack.decode(argument, type=BrokerConfig)
    # The process that forks compactors has what they need, and ends with them: they are rare.
    preload = (COMPACTOR_ENTRY.partition(":")[0],)
    raise SystemExit(run(lambda ports: _serve(ports, config, parent), node=config.node, preload=preload, lingers=False))


def _advice(reason: Failed, config: BrokerConfig) -> str | None:
    (bulk,) = (bulk for name, _, bulk in config.brokers if name == config.node)
    if reason.type == "AddressInUse" and reason.message == str(AddressInUse(bulk)):
        return BULK_ADVICE
    return ADVICE.get(reason.type)


async def _serve(ports: Ports, config: BrokerConfig, parent: Parent) -> int:
    from actors import collect_when_idle, freeze_memory, on_terminate, process_id

    status = 0

    def fault(reason: ExitReason) -> None:
        nonlocal status
        if isinstance(reason, Failed):
            status = EXIT_STATUS.get(reason.type, EXIT_FAULT)
            if status == EXIT_FAULT:
                ports.log.event("broker_stopped", node=config.node, reason=str(reason), exit_status=status)
                if reason.type not in KNOWN_FAULTS:
                    ports.log.event("broker_crash", node=config.node, traceback=reason.traceback)
            else:
                advice = _advice(reason, config)
                parent.send(encode(Refused(f"{reason.message}; {advice}" if advice else reason.message)))
        system.stop()

    def end() -> None:
        nonlocal status
        status = EXIT_AGAIN
        system.stop()

    system = start_broker(ports, config, process_id(), fault, lambda: parent.send(encode(Ready())), end)
    on_terminate(system.stop)
    freeze_memory()
    cell = system.find("raft")
    if cell is not None:
        raft = cell.actor
        assert isinstance(raft, RaftPeer)
        collect_when_idle(ports.clock, lambda: raft.machine.applied_index)
    await system.wait_stopped()
    return status
