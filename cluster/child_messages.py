from cluster.worker.child_messages import *  # moved
