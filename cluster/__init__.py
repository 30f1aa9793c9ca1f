"""A fault-tolerant task queue: brokers replicate through Raft, workers run tasks, clients submit and await."""

from cluster.backoff import Backoff
from cluster.client import Batch, BlockingBatch, BlockingClient, BlockingHandle, Client, Event, Handle
from cluster.errors import (
    BodyTooLarge,
    ClusterError,
    DeadlineExceeded,
    EncodeError,
    Overloaded,
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
from cluster.wire import Record

__all__ = [
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
    "SoftTimeLimit",
    "Task",
    "TaskCancelled",
    "TaskDead",
    "TaskExpired",
    "TaskFailed",
    "TaskNotFound",
    "TopologyError",
    "Unavailable",
    "current",
    "task",
]
