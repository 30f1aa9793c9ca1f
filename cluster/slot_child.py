from cluster.worker.slot_child import *  # moved
