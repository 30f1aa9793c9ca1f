"""What RaftPeer and Broker, two actors of one process, say to each other."""

from dataclasses import dataclass

from cluster.state.effects import Effects


@dataclass(frozen=True, slots=True)
class Propose:
    """Broker -> RaftPeer: payloads of entries to append, if it still leads; else they are dropped, and their senders
    say them again to the next leader."""

    term: int
    payloads: list[bytes]


@dataclass(frozen=True, slots=True)
class Applied:
    """RaftPeer -> Broker: effects of what the leader applied in this turn, for the broker to carry out."""

    term: int
    effects: Effects


@dataclass(frozen=True, slots=True)
class Leading:
    """RaftPeer -> Broker: this broker leads, and its state holds everything that was committed before."""

    term: int


@dataclass(frozen=True, slots=True)
class LeaderKnown:
    """RaftPeer -> Broker: another broker leads ("" = none is known). Whatever led here before no longer does."""

    term: int
    node: str


@dataclass(frozen=True, slots=True)
class ConfirmLeadership:
    """Broker -> RaftPeer. Owes: LeadershipConfirmed once a majority has answered a heartbeat sent after this."""

    round: int


@dataclass(frozen=True, slots=True)
class LeadershipConfirmed:
    """RaftPeer -> Broker: it led after round `round` was asked."""

    round: int
