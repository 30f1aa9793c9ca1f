"""What users hold: the client, a handle for each task, a batch for many."""

from cluster.client.client import Batch, Client, Handle

__all__ = ["Batch", "Client", "Handle"]
