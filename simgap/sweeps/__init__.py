"""Sweeps: many cells, any machine, stopped and resumed at will, the same bits."""

from simgap.sweeps.cells import Cells, LeftOut
from simgap.sweeps.designs import Range, grid, one_at_a_time, random_design, sobol_design, zip_grid
from simgap.sweeps.frame import COSTS, collect
from simgap.sweeps.run import Run, sweep

__all__ = [
    "grid",
    "zip_grid",
    "one_at_a_time",
    "random_design",
    "sobol_design",
    "Range",
    "Cells",
    "LeftOut",
    "sweep",
    "collect",
    "Run",
    "COSTS",
]
