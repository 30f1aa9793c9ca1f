"""A broker process: clients and workers on one side, the replicated log on the other."""
