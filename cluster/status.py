from cluster.client.status import *  # moved
