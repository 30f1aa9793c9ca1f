"""For tests of what is built on a cluster: one in memory, in virtual time."""

from cluster.testing.memory import MemoryCluster

__all__ = ["MemoryCluster"]
