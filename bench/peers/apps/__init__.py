"""One module per library: its tasks, imported by its workers, and `Queue`, its client. They run in the peers' own
environment and are told by environment variables where their servers are.
"""
