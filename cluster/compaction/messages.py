"""What a broker and its compactor process say to each other."""

from msgspec import Struct, msgpack

from cluster.storage.pieces import Piece
from cluster.storage.snapshots import SnapshotMeta


class Plan(Struct, array_like=True, frozen=True):
    """Broker -> compactor, first and only: make this snapshot. Owes: Written, or NotWritten.

    Begin with the snapshot of index `base` (0: with the empty state) and apply what lies in `pieces`: every entry from
    `base + 1` to `meta.index`, and no other. `meta` says what must come of it.
    """

    directory: str
    base: int
    pieces: list[Piece]
    meta: SnapshotMeta
    nice: int


class StillAtWork(Struct, array_like=True, tag=0, frozen=True):
    """Compactor -> broker, now and then: `applied` is the last entry that it has applied."""

    applied: int


class Written(Struct, array_like=True, tag=1, frozen=True):
    """Compactor -> broker: the snapshot is durable under its name, and was read back."""

    index: int
    size: int


class NotWritten(Struct, array_like=True, tag=2, frozen=True):
    """Compactor -> broker: there is no new snapshot, for this reason. `is_base_damaged`: the one that it had to begin
    with cannot be read; the next plan must do without it."""

    reason: str
    is_base_damaged: bool = False


FromCompactor = StillAtWork | Written | NotWritten

encode = msgpack.Encoder().encode
plan_decoder = msgpack.Decoder(Plan)
from_compactor_decoder: msgpack.Decoder[FromCompactor] = msgpack.Decoder(FromCompactor)
