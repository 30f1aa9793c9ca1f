from cluster.peer.messages import *  # moved
