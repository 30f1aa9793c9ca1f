from cluster.client.actor import *  # moved
