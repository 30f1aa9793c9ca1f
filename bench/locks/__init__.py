"""Locks of quorumq beside those of etcd and Redis: the same contenders, one run, one machine.

    make bench-locks        (python -m bench.locks.run [--only NAME] [--quick] [--json])

`run` measures the systems in turn, round by round. `systems` says what each consists of, `servers` starts and stops it,
`client` runs inside the environment that has its library and uses it by one of the `apps`. `contest` is what contenders
do, `figures` and `report` are arithmetic. What starts processes and draws is that of `bench.peers`.
"""
