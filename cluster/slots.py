from cluster.worker.slots import *  # moved
