from cluster.broker.lease_table import *  # moved
