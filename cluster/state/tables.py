"""All replicated state in one place: what `apply` changes, and what a snapshot will contain."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from cluster.state.commands import MACHINE_VERSION
from cluster.state.credit import Credit
from cluster.state.duplicates import Duplicates
from cluster.state.evidence import Evidence
from cluster.state.keys import Keys
from cluster.state.ledger import Ledger
from cluster.state.limits import Limits
from cluster.state.lines import Lines
from cluster.state.locks import Locks
from cluster.state.needs import Dependencies
from cluster.state.queues import Queues
from cluster.state.retention import Retention
from cluster.state.schedules import Schedules
from cluster.state.sessions import Sessions
from cluster.state.tasks import TaskTable
from cluster.state.timers import Timers


@dataclass(slots=True)
class Counters:
    """What was refused, skipped or forgotten, for operators. The same on every replica."""

    undecodable: int = 0            # entries, groups or commands
    unknown_kinds: int = 0          # groups
    newer_versions: int = 0         # groups above the agreed machine version
    duplicate_commands: int = 0
    gaps: int = 0
    unknown_sessions: int = 0
    refused_commands: int = 0
    refused_registrations: int = 0
    refused_schedules: int = 0      # announced when there were too many
    refused_outcomes: int = 0       # late, fenced by their attempt number, or of tasks not held
    ignored_seen: int = 0           # ranges of results that a client cannot have, or has said that it has
    evicted: int = 0                # tasks that ended and are forgotten
    evicted_early: int = 0          # of those, before their date: all results, or all dead letters, were too large
    replayed: int = 0               # tasks that had ended and were run again, each time counted
    duplicates: int = 0             # tasks that ran nothing, since another one had their key
    forgotten_keys: int = 0         # before the end of their window: there were too many
    blanked_attempts: int = 0       # that lost traceback and stderr, since all evidence was too large together

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Tables:
    """Between entries every part is consistent, see `invariants`."""

    __slots__ = (
        "cluster_id",
        "counters",
        "credit",
        "dependencies",
        "duplicates",
        "evidence",
        "keys",
        "ledger",
        "limits",
        "lines",
        "locks",
        "machine_version",
        "now_ms",
        "queues",
        "retention",
        "schedules",
        "sessions",
        "tasks",
        "timers",
        "voters",
    )

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.credit = Credit()
        self.queues = Queues(self.credit.serving)
        self.keys = Keys(self.queues, self.credit.serving)
        self.timers = Timers()
        self.limits = Limits(self.timers)
        self.duplicates = Duplicates()
        self.lines = Lines(self.queues, self.limits, self.credit.serving)
        self.sessions = Sessions()
        self.locks = Locks(self.sessions, self.ledger)
        self.schedules = Schedules(self.ledger)
        self.tasks = TaskTable()
        self.dependencies = Dependencies()
        self.retention = Retention(self.dependencies)
        self.evidence = Evidence()
        self.counters = Counters()
        self.now_ms = 0                             # the last stamp; never goes back
        self.machine_version = MACHINE_VERSION      # agreed; a group above it is refused
        self.cluster_id = b""
        self.voters: tuple[str, ...] = ()

    def dismantle(self) -> Iterator[None]:
        """Frees everything, a part at each step: to free a million tasks at once would hold the loop for long."""
        shards = self.tasks.shards
        for part in self.__slots__:         # what refers to tasks goes before the tasks
            delattr(self, part)
            yield
        while shards:
            shards.pop()
            yield
