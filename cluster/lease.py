from cluster.worker.lease import *  # moved
