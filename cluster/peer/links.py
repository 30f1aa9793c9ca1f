"""Links from one broker to the others: a dialler of its own to each, on two channels.

*Control* carries heartbeats, votes and small appends; *bulk* carries large appends (and snapshots, later), so that a
megabyte on its way never delays a heartbeat. The channels do not keep order between each other. An append that
overtakes the one before it is rejected and costs a round of probing, so once an append left by bulk, all following
ones to that broker do, until it has acknowledged the last of them.
"""

from collections.abc import Callable

import msgspec

from actors import Endpoint, Peer
from cluster.raft.messages import Message, MessageType
from cluster.wire import Message as WireMessage
from cluster.wire import RaftMessage, Refused, ToBroker

CONTROL_APPEND_BYTES_MAX = 64 * 1024


class BrokerLink:
    """Both channels to one broker."""

    __slots__ = ("bulk", "bulk_until", "control", "node", "node_id")

    def __init__(self, node_id: int, node: str, control: Peer, bulk: Peer) -> None:
        self.node_id = node_id
        self.node = node
        self.control = control
        self.bulk = bulk
        self.bulk_until = 0     # last index that left by bulk and is not acknowledged; 0 = none


class BrokerLinks:
    """Every other broker, by node id."""

    def __init__(
        self,
        endpoint: Endpoint,
        others: list[tuple[int, str, str, str]],        # (node id, name, control address, bulk address)
        hello: Callable[[], object],
        on_up: Callable[[int], None],
        on_down: Callable[[int], None],
        on_refused: Callable[[int, str], None],
        on_bulk_down: Callable[[int], None] = lambda node_id: None,
    ) -> None:
        self._links: dict[int, BrokerLink] = {}
        self._endpoint = endpoint
        self._hello = hello
        self._on_up = on_up
        self._on_down = on_down
        self._on_refused = on_refused
        self._on_bulk_down = on_bulk_down
        self._others = others
        self._dial()

    def _dial(self) -> None:
        on_up, on_down, on_refused = self._on_up, self._on_down, self._on_refused
        endpoint, hello = self._endpoint, self._hello
        decoder = msgspec.msgpack.Decoder(list[ToBroker])
        for node_id, node, control_address, bulk_address in self._others:

            def up(peer: Peer, node_id: int = node_id) -> None:
                on_up(node_id)

            def down(peer: Peer, node_id: int = node_id) -> None:
                on_down(node_id)

            def bulk_down(peer: Peer, node_id: int = node_id) -> None:
                self._on_bulk_down(node_id)

            def told(peer: Peer, messages: list[object], node_id: int = node_id) -> None:
                for message in messages:
                    if isinstance(message, Refused):
                        on_refused(node_id, message.reason)

            control = endpoint.dial(control_address, hello, decoder, up, told, down)
            bulk = endpoint.dial(bulk_address, hello, decoder, _ignore, _nothing, bulk_down)
            self._links[node_id] = BrokerLink(node_id, node, control, bulk)

    def renew(self) -> None:
        """Says hello again to everyone, over new links: what it told before is no longer true."""
        for link in self._links.values():
            link.control.close()
            link.bulk.close()
        self._dial()

    def send_all(self, message: WireMessage) -> None:
        for link in self._links.values():
            link.control.send(message)

    def send(self, node_id: int, message: WireMessage) -> None:
        self._links[node_id].control.send(message)

    def send_bulk(self, node_id: int, message: WireMessage) -> bool:
        """A large message that may wait for its turn; False if there is no room for it now."""
        return self._links[node_id].bulk.send(message)

    def is_up(self, node_id: int) -> bool:
        return self._links[node_id].control.is_up

    def name(self, node_id: int) -> str:
        return self._links[node_id].node

    def send_raft(self, message: Message, encoded: bytes) -> bool:
        """Queues a message of the core; False if it must be taken for lost."""
        link = self._links[message.to]
        has_entries = message.type is MessageType.APPEND and message.entries
        if has_entries and (link.bulk_until or len(encoded) > CONTROL_APPEND_BYTES_MAX):
            link.bulk_until = message.entries[-1].index
            return link.bulk.send(RaftMessage(encoded))
        return link.control.send(RaftMessage(encoded))

    def acknowledged(self, node_id: int, index: int) -> None:
        link = self._links[node_id]
        if link.bulk_until and index >= link.bulk_until:
            link.bulk_until = 0

    def reset(self, node_id: int) -> None:
        """The follower is probed anew: order starts over."""
        self._links[node_id].bulk_until = 0

    def flush(self) -> None:
        """Sends now: what others need to begin their part leaves before this broker does its own."""
        for link in self._links.values():
            link.control.flush()
            link.bulk.flush()


def _nothing(peer: Peer, messages: list[object]) -> None:
    return


def _ignore(peer: Peer) -> None:
    return
