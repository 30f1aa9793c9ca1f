"""What users hold: the client, a handle for each task, a batch for many; and the same for programs that block."""

from cluster.client.blocking import BlockingBatch, BlockingClient, BlockingHandle
from cluster.client.client import Client
from cluster.client.handle import Batch, Handle
from cluster.client.watching import Event

__all__ = ["Batch", "BlockingBatch", "BlockingClient", "BlockingHandle", "Client", "Event", "Handle"]
