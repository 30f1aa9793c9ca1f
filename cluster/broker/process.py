"""A broker process: its two actors on one loop, composed alike in the real and in the simulated world."""

from collections.abc import Callable

import msgspec

from actors import ActorSystem, Endpoint, ExitReason, Failed, MailboxSpec, PeerLog, Ports
from cluster.broker.actor import Broker
from cluster.peer.actor import PeerConfig, RaftPeer
from cluster.peer.reception import Reception
from cluster.storage.segment import WalLimits
from cluster.storage.wal import DEFAULT_LIMITS

INCARNATION_BITS = 63
MAILBOX_MESSAGES_MAX = 65_536       # between the two actors; each turn adds a few, and both drain every turn
EXIT_OPERATOR = 2                   # an operator must put something right; a restart would not help
EXIT_FAULT = 70                     # a restart goes through recovery and may mend it
EXIT_STATUS = {
    "AddressInUse": EXIT_OPERATOR,
    "BadAddress": EXIT_OPERATOR,
    "BrokerRefused": EXIT_OPERATOR,
    "FileExistsError": EXIT_OPERATOR,           # a file in the place of the data directory
    "FileNotFoundError": EXIT_OPERATOR,         # a place where no directory can be made
    "ForeignDirectory": EXIT_OPERATOR,
    "Locked": EXIT_OPERATOR,
    "NotADirectoryError": EXIT_OPERATOR,
    "PermissionError": EXIT_OPERATOR,
    "UnsupportedVersion": EXIT_OPERATOR,
}
KNOWN_FAULTS = ("BrokerFault", "WalFailed")


class BrokerConfig(msgspec.Struct, array_like=True, frozen=True):
    """What a broker process is told. `brokers` are (name, control address, bulk address), in topology order."""

    cluster: str
    node: str
    brokers: tuple[tuple[str, str, str], ...]
    directory: str
    sync_mode: str = "auto"
    wal: WalLimits = DEFAULT_LIMITS


def start_broker(ports: Ports, config: BrokerConfig, pid: int, on_fault: Callable[[ExitReason], None]) -> ActorSystem:
    """Starts RaftPeer and Broker. `on_fault` is told if one of them ends by itself: the process must end then."""
    system = ActorSystem(ports, node=config.node)
    incarnation = ports.entropy.bits(INCARNATION_BITS)
    identity = b"\x01" + ports.entropy.bits(120).to_bytes(15, "big")
    endpoint = Endpoint(ports, identity, turn=system.turn)
    reception = Reception(endpoint, config.cluster, PeerLog(ports.log, ports.clock))
    peer_config = PeerConfig(
        config.cluster, config.node, config.brokers, config.directory, config.sync_mode, config.wal
    )
    raft = RaftPeer(peer_config, reception, endpoint, incarnation)
    mailbox = MailboxSpec(MAILBOX_MESSAGES_MAX)
    raft_ref = system.spawn(raft, name="raft", mailbox=mailbox)
    broker = Broker(config.node, pid, raft, reception)
    raft.broker = system.spawn(broker, name="broker", mailbox=mailbox)

    def ended(reason: ExitReason) -> None:
        endpoint.close()
        on_fault(reason)

    system.on_exit(raft_ref, ended)
    system.on_exit(raft.broker, on_fault)
    return system


def run_broker(channel: object, argument: bytes) -> None:
    """The entry of a broker's process, as `launch` spawns it."""
    from actors import run

    config = msgspec.msgpack.decode(argument, type=BrokerConfig)
    raise SystemExit(run(lambda ports: _serve(ports, config), node=config.node))


async def _serve(ports: Ports, config: BrokerConfig) -> int:
    from actors import freeze_memory, on_terminate, process_id

    status = 0

    def fault(reason: ExitReason) -> None:
        nonlocal status
        if isinstance(reason, Failed):
            status = EXIT_STATUS.get(reason.type, EXIT_FAULT)
            ports.log.event("broker_stopped", node=config.node, reason=str(reason), exit_status=status)
            if status == EXIT_FAULT and reason.type not in KNOWN_FAULTS:
                ports.log.event("broker_crash", node=config.node, traceback=reason.traceback)
        system.stop()

    system = start_broker(ports, config, process_id(), fault)
    on_terminate(system.stop)
    freeze_memory()
    await system.wait_stopped()
    return status
