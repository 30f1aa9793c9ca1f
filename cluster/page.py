from cluster.worker.page import *  # moved
