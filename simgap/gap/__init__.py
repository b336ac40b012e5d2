"""The two sides of the gap in one shape, measured and predicted, and what puts them together.

Names load on first use: predictions and calibration need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simgap.gap.arrays import Overlap, mean_mso, token_mso, weight_mso
    from simgap.gap.calibration import Comparison, calibrate
    from simgap.gap.explained import explain
    from simgap.gap.explanation import Explanation
    from simgap.gap.judgement import Judgement, judge
    from simgap.gap.measured import measure
    from simgap.gap.measured_arrays import measure_arrays
    from simgap.gap.predicted import predict
    from simgap.nulls import Prediction
    from simgap.results import Gap

__all__ = [
    "Comparison",
    "Explanation",
    "Gap",
    "Judgement",
    "Overlap",
    "Prediction",
    "calibrate",
    "explain",
    "judge",
    "mean_mso",
    "measure",
    "measure_arrays",
    "predict",
    "token_mso",
    "weight_mso",
]

_ROOMS = {
    "arrays": ("Overlap", "mean_mso", "token_mso", "weight_mso"),
    "calibration": ("Comparison", "calibrate"),
    "explained": ("explain",),
    "explanation": ("Explanation",),
    "judgement": ("Judgement", "judge"),
    "measured": ("measure",),
    "measured_arrays": ("measure_arrays",),
    "predicted": ("predict",),
}
_HOME = {name: f"simgap.gap.{room}" for room, names in _ROOMS.items() for name in names} | {
    "Prediction": "simgap.nulls",
    "Gap": "simgap.results",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        globals()[name] = value = getattr(import_module(_HOME[name]), name)
        return value
    raise AttributeError(f"module 'simgap.gap' has no attribute {name!r}")
