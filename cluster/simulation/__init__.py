"""A whole cluster in the simulated world: scenarios, workloads, faults, and the oracles that judge them.

Parts of it serve `cluster.testing` as well, so nothing is loaded before somebody asks for it: the tasks of the
simulated users would stand beside those of a real one.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.simulation.planted import Planted
    from cluster.simulation.scenario import Course, Report, Scenario, run_seed
    from cluster.simulation.verdict import Violation

__all__ = ["Course", "Planted", "Report", "Scenario", "Violation", "run_seed"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from cluster.simulation import planted, scenario, verdict

        for module in (planted, scenario, verdict):
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
