"""The simulated world behind the ports: virtual time, and a seeded plan of faults."""

from actors.simulation.disk import SimulatedDisk
from actors.simulation.fault_mix import NO_FAULTS, FaultMix, Rate
from actors.simulation.faults import FaultPlan, flip_anywhere
from actors.simulation.history import History, Observation, Operation, Outcome
from actors.simulation.links import NetworkLimits
from actors.simulation.loop import Cut
from actors.simulation.machine import Machine, Process, WorldLimits
from actors.simulation.network import Cuts, Network
from actors.simulation.processes import ChildLimits, ChildPort
from actors.simulation.traces import portable_traceback
from actors.simulation.world import Coming, ProcessError, World

__all__ = [
    "NO_FAULTS",
    "ChildLimits",
    "ChildPort",
    "Coming",
    "Cut",
    "Cuts",
    "FaultMix",
    "FaultPlan",
    "History",
    "Machine",
    "Network",
    "NetworkLimits",
    "Observation",
    "Operation",
    "Outcome",
    "Process",
    "ProcessError",
    "Rate",
    "SimulatedDisk",
    "World",
    "WorldLimits",
    "flip_anywhere",
    "portable_traceback",
]
