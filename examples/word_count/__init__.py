"""Which words a folder of texts has: a step for each file, a fan-in, and a report, all submitted at once."""
