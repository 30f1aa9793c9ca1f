from cluster.peer.links import *  # moved
