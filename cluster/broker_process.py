from cluster.broker.process import *  # moved
