from cluster.client.outbox import *  # moved
