"""A short course of a simulated cluster; run as a script it prints the digest of its seed."""

import sys

from actors import SECOND
from cluster.simulation import Course, Report, Scenario

SHORT = Course(
    faults_ns=5 * SECOND, calm_ns=SECOND, tasks_min=0, rest_ns_max=60 * SECOND, total_ns_min=0, is_whole=False
)


def short_run(seed: int) -> Report:
    return Scenario(seed, SHORT).run()


if __name__ == "__main__":
    sys.stdout.write(f"{short_run(int(sys.argv[1])).digest}\n")
