"""A fault-tolerant task queue: brokers replicate through Raft, workers run tasks, clients submit and await."""

from cluster.backoff import Backoff
from cluster.client import (
    AttemptInfo,
    Batch,
    BlockingBatch,
    BlockingClient,
    BlockingHandle,
    Client,
    Event,
    Handle,
    TaskInfo,
)
from cluster.errors import (
    BodyTooLarge,
    ClusterError,
    DeadlineExceeded,
    EncodeError,
    Overloaded,
    ScheduleError,
    SoftTimeLimit,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TopologyError,
    Unavailable,
)
from cluster.task import Task, current, task
from cluster.task_actor import TaskActor, method
from cluster.wire import Record

__all__ = [
    "AttemptInfo",
    "Backoff",
    "Batch",
    "BlockingBatch",
    "BlockingClient",
    "BlockingHandle",
    "BodyTooLarge",
    "Client",
    "ClusterError",
    "DeadlineExceeded",
    "EncodeError",
    "Event",
    "Handle",
    "Overloaded",
    "Record",
    "ScheduleError",
    "SoftTimeLimit",
    "Task",
    "TaskActor",
    "TaskCancelled",
    "TaskDead",
    "TaskExpired",
    "TaskFailed",
    "TaskInfo",
    "TaskNotFound",
    "TopologyError",
    "Unavailable",
    "current",
    "method",
    "task",
]
