from cluster.worker.config import *  # moved
