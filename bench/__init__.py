"""Benchmarks: figures of this machine, with default settings and synced logs."""
