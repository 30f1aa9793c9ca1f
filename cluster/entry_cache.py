from cluster.peer.entry_cache import *  # moved
