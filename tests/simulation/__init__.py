"""Deterministic simulation of a whole run: whatever happens outside of the engine, its invariants hold.

The Grid, the LinkState, the worker loops, the places and what runs in a worker are the engine's own. Simulated are the
clocks, the event loop's waiting, and the cluster: its workers are killed, hang, leave, join, and answer late or twice,
as :func:`simulate` is told by its choices.
"""

from .choices import Choices
from .run import Simulated, fault_free, simulate, simulate_seed

__all__ = ["Choices", "Simulated", "fault_free", "simulate", "simulate_seed"]
