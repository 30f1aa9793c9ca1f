"""What users hold: the client, a handle for each task, a batch for many."""

from cluster.client.client import Client
from cluster.client.handle import Batch, Handle

__all__ = ["Batch", "Client", "Handle"]
