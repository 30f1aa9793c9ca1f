from cluster.peer.stamp import *  # moved
