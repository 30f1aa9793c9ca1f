"""quorumq beside other task queues: the same work, one run, one machine, and a server that is killed in the middle.

    make bench-peers        (python -m bench.peers.run [--only NAME] [--quick])

`run` measures one peer after another. `peers` says what each consists of, `servers` and `own` start, kill and restart
it, `client` runs inside the peer's environment and uses it by one of the `apps`. `fates` and `report` are arithmetic.
"""
