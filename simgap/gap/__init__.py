"""The two sides of the gap in one shape, measured and predicted, and what puts them together."""

from simgap.gap.arrays import Overlap, mean_mso, token_mso, weight_mso
from simgap.gap.calibration import Calibrated, calibrate
from simgap.gap.measured import measure
from simgap.gap.predicted import Prediction, predict
from simgap.gap.shape import Gap

__all__ = ["Calibrated", "Gap", "Overlap", "Prediction", "calibrate", "mean_mso", "measure", "predict", "token_mso", "weight_mso"]
