"""What a broker is told when it starts."""

import msgspec

from cluster.compaction.policy import DEFAULT_LIMITS as COMPACTION_LIMITS
from cluster.compaction.policy import CompactionLimits
from cluster.storage.segment import WalLimits
from cluster.storage.wal import DEFAULT_LIMITS


class BrokerConfig(msgspec.Struct, array_like=True, frozen=True):
    """What a broker process is told. `brokers` are (name, control address, bulk address), in topology order."""

    cluster: str
    node: str
    brokers: tuple[tuple[str, str, str], ...]
    directory: str
    sync_mode: str = "auto"
    wal: WalLimits = DEFAULT_LIMITS
    compaction: CompactionLimits = COMPACTION_LIMITS


class BrokerLimits(msgspec.Struct, frozen=True):
    """Sizes and times of every broker that a launch starts."""

    wal: WalLimits = DEFAULT_LIMITS
    compaction: CompactionLimits = COMPACTION_LIMITS
