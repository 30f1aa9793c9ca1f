"""One module per system: its contenders. They run in the environment that has the library, and are told by environment
variables where their servers are.
"""

HOLD_S = 30     # how long a lock outlives a holder of which nothing is heard
