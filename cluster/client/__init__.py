"""What users hold: the client, a handle for each task, a batch for many, locks; and the same for programs that
block."""

from cluster.client.blocking import BlockingBatch, BlockingClient, BlockingHandle
from cluster.client.client import Client
from cluster.client.elections import AsyncElection, BlockingElection, Election, Leader
from cluster.client.handle import Batch, Handle
from cluster.client.inspection import AttemptInfo, TaskInfo
from cluster.client.lock_listing import LockHolder, LockInfo
from cluster.client.locks import AsyncLock, BlockingLock, Lock, ReadWriteLock, Semaphore
from cluster.client.schedules import ScheduleInfo, SlotInfo
from cluster.client.watching import Event

__all__ = [
    "AsyncElection",
    "AsyncLock",
    "AttemptInfo",
    "Batch",
    "BlockingBatch",
    "BlockingClient",
    "BlockingElection",
    "BlockingHandle",
    "BlockingLock",
    "Client",
    "Election",
    "Event",
    "Handle",
    "Leader",
    "Lock",
    "LockHolder",
    "LockInfo",
    "ReadWriteLock",
    "ScheduleInfo",
    "Semaphore",
    "SlotInfo",
    "TaskInfo",
]
