"""How a broker comes by its log: the directory's lock, the newest snapshot, recovery."""

from collections.abc import Callable

from actors import Context, Locked
from cluster.data_directory import LOCK_PATIENCE, LOCK_RETRY, DataUnusable, NoRoom, may_pass
from cluster.peer.config import BrokerConfig
from cluster.peer.errors import BrokerRefused
from cluster.raft.messages import SnapshotMark
from cluster.storage.errors import NoBeginning, WalFailed, is_lack_of_room
from cluster.storage.recovery import Recovery
from cluster.storage.scan import NodeIdentity
from cluster.storage.segment import list_names
from cluster.storage.snapshots import ASIDE, damaged_snapshots
from cluster.storage.wal import Wal


class Opening:
    """`begin` once. `restore` loads a snapshot, under the lock; `opened(wal, recovery)` is called with the log ready,
    in the same turn unless a predecessor that is still ending has to be waited for."""

    def __init__(
        self,
        context: Context,
        config: BrokerConfig,
        incarnation: int,
        restore: Callable[[], SnapshotMark | None],
        persisted: Callable[[int], None],
        failed: Callable[[WalFailed], None],
        opened: Callable[[Wal, Recovery], None],
    ) -> None:
        self._context = context
        self._config = config
        self._incarnation = incarnation
        self._restore = restore
        self._persisted = persisted
        self._failed = failed
        self._opened = opened
        self._deadline = context.clock.now() + LOCK_PATIENCE

    def begin(self) -> None:
        """Raises Locked, ForeignDirectory, UnsupportedVersion, UnreadableState, DataUnusable, BrokerRefused."""
        try:
            wal, recovery = self._open()
        except Locked:
            if self._context.clock.now() >= self._deadline:
                raise
            self._context.timer("lock", LOCK_RETRY, self.begin)
        except NoBeginning as error:
            raise BrokerRefused(self._without_beginning(error)) from error
        except OSError as error:
            if may_pass(error):
                raise
            # Whoever begins here is told to make room first; who was here before waits for it, with the others running.
            waits = is_lack_of_room(error) and self._has_log()
            raise (NoRoom if waits else DataUnusable)(self._config.directory, error) from error
        else:
            self._look(wal, recovery)

    def _has_log(self) -> bool:
        return bool(list_names(self._context.files, self._config.directory).segments)

    def _without_beginning(self, error: NoBeginning) -> str:
        """For an operator: nothing here could mend it, and nothing was changed."""
        directory, first = self._config.directory, error.first_index
        files = damaged_snapshots(self._context.files, directory)
        useful = [path for path, index in files if first and index + 1 >= first]
        whole = "put back a copy of the whole directory"
        if error.snapshot_index:
            what, remedy = f"in {directory!r} {error}", whole
        elif useful:
            what = f"no snapshot can be read ({', '.join(useful)}), and the log begins with entry {first}"
            remedy = f"put a copy of one of these back, without the ending {ASIDE}, or {whole}"
        else:
            what, remedy = f"no snapshot is in {directory!r}, and the log begins with entry {first}", whole
        return f"{what}; there is no other broker to get the state from; {remedy}"

    def _open(self) -> tuple[Wal, Recovery]:
        context, config = self._context, self._config
        return Wal.open(
            context.files,
            config.directory,
            NodeIdentity(config.node, config.cluster, self._incarnation),
            salt=lambda: context.entropy.bits(64),
            clock=context.clock,
            limits=config.wal,
            sync_mode=config.sync_mode,  # type: ignore[arg-type]
            on_persisted=self._persisted,
            on_failed=self._failed,
            guard=context.callback,
            restore=self._restore,
            has_others=len(self._config.brokers) > 1,
        )

    def _look(self, wal: Wal, recovery: Recovery) -> None:
        if recovery.damaged is not None:
            if len(self._config.brokers) == 1:
                wal.close()
                raise BrokerRefused(
                    f"the log is damaged ({self._config.directory}/{recovery.damaged.file}), and there is no other "
                    "broker to get the state from; put back a copy of the whole directory, or keep it aside and begin "
                    "with an empty one (docs/operations.md, a broker that will not start)"
                )
            self._context.log.event(
                "log_damaged",
                node=self._config.node,
                damage=str(recovery.damaged),
                action="quarantined until it caught up; look at the disk",
            )
        self._opened(wal, recovery)
