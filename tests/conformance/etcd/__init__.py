"""Runs transcripts in the grammar of etcd's data-driven tests against our Raft core."""
