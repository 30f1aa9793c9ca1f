from cluster.peer.reception import *  # moved
