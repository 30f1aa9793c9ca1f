from cluster.worker.actor import *  # moved
