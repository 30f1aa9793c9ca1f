from cluster.broker.entries import *  # moved
