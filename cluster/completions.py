from cluster.worker.completions import *  # moved
