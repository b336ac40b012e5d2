"""simgap: is the overlap of your experts more than their dimensions give? Simulated, predicted, and never reported without a null."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simgap.own_activations import activation
from simgap.specs import InputSpec, LayerSpec, RouterSpec, RunSpec, SpaceSpec

if TYPE_CHECKING:
    from simgap import metrics, sweeps, theory
    from simgap.gap import (
        Explanation,
        Gap,
        Overlap,
        calibrate,
        explain,
        judge,
        mean_mso,
        measure,
        measure_arrays,
        predict,
        token_mso,
        weight_mso,
    )
    from simgap.moe import Weights
    from simgap.sweeps import Cells, Range, Run, collect, grid, one_at_a_time, random_design, sobol_design, sweep, zip_grid

__version__ = "0.1.0"
__all__ = [
    "weight_mso",
    "token_mso",
    "mean_mso",
    "LayerSpec",
    "RouterSpec",
    "InputSpec",
    "SpaceSpec",
    "RunSpec",
    "activation",
    "measure",
    "measure_arrays",
    "predict",
    "calibrate",
    "judge",
    "explain",
    "Explanation",
    "Gap",
    "Overlap",
    "Weights",
    "grid",
    "zip_grid",
    "one_at_a_time",
    "random_design",
    "sobol_design",
    "Range",
    "Cells",
    "sweep",
    "collect",
    "Run",
    "theory",
    "metrics",
    "sweeps",
]

# torch takes over a second to import: it is loaded by the first name that needs it.
_ROOMS = dict.fromkeys(
    (
        "Explanation",
        "Gap",
        "Overlap",
        "calibrate",
        "explain",
        "judge",
        "mean_mso",
        "measure",
        "measure_arrays",
        "predict",
        "token_mso",
        "weight_mso",
    ),
    "simgap.gap",
)
_ROOMS["Weights"] = "simgap.moe"
_ROOMS |= dict.fromkeys(
    ("Cells", "Range", "Run", "collect", "grid", "one_at_a_time", "random_design", "sobol_design", "sweep", "zip_grid"), "simgap.sweeps"
)


_MODULES = ("metrics", "sweeps", "theory")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"simgap.{name}")
    if name in _ROOMS:
        # Kept, so that it is looked up once.
        globals()[name] = value = getattr(import_module(_ROOMS[name]), name)
        return value
    raise AttributeError(f"module 'simgap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
