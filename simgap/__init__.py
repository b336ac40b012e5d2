"""simgap: is the overlap of your experts more than their dimensions give? Simulated, predicted, and never reported without a null."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simgap.own_activations import activation
from simgap.specs import InputSpec, LayerSpec, RouterSpec, RunSpec, SpaceSpec

if TYPE_CHECKING:
    from simgap import metrics, sweeps, theory
    from simgap.api.arrays import Overlap, mean_mso, token_mso, weight_mso
    from simgap.api.calibration import Comparison, calibrate
    from simgap.api.explained import explain
    from simgap.api.explanation import Explanation
    from simgap.api.judgement import Judgement, judge
    from simgap.api.measured import measure
    from simgap.api.measured_arrays import measure_arrays
    from simgap.api.predicted import predict
    from simgap.moe import Weights
    from simgap.nulls import Prediction
    from simgap.results import Gap
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
    "Comparison",
    "Explanation",
    "Gap",
    "Judgement",
    "Overlap",
    "Prediction",
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
_HOMES = {
    "api.arrays": ("Overlap", "mean_mso", "token_mso", "weight_mso"),
    "api.calibration": ("Comparison", "calibrate"),
    "api.explained": ("explain",),
    "api.explanation": ("Explanation",),
    "api.judgement": ("Judgement", "judge"),
    "api.measured": ("measure",),
    "api.measured_arrays": ("measure_arrays",),
    "api.predicted": ("predict",),
    "moe": ("Weights",),
    "nulls": ("Prediction",),
    "results": ("Gap",),
    "sweeps": ("Cells", "Range", "Run", "collect", "grid", "one_at_a_time", "random_design", "sobol_design", "sweep", "zip_grid"),
}
_HOME = {name: f"simgap.{home}" for home, names in _HOMES.items() for name in names}


_MODULES = ("metrics", "sweeps", "theory")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"simgap.{name}")
    if name in _HOME:
        # Kept, so that it is looked up once.
        globals()[name] = value = getattr(import_module(_HOME[name]), name)
        return value
    raise AttributeError(f"module 'simgap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
