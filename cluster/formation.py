from cluster.peer.formation import *  # moved
