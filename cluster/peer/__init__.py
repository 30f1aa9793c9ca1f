"""One member of the Raft group: carries out what the core decides, and applies what it commits."""
