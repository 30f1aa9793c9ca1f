"""A whole cluster in the simulated world: scenarios, workloads, faults, and the oracles that judge them."""

from cluster.simulation.planted import Planted
from cluster.simulation.scenario import Course, Report, Scenario, run_seed
from cluster.simulation.verdict import Violation

__all__ = ["Course", "Planted", "Report", "Scenario", "Violation", "run_seed"]
