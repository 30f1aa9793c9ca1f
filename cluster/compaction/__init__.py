"""A log without end: a process beside the broker turns log into snapshots."""
