from cluster.worker.executor import *  # moved
