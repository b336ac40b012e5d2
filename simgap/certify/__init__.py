"""Certificates: laws in ball arithmetic, bounds over boxes of parameters, and what a check may say."""

from simgap.certify.balls import BALL, Balls, precision
from simgap.certify.boxes import OverBox, enclose_root, interval, positive_over
from simgap.certify.quadrature import PairSeries, gaussian_expectation, hermite_coefficient, pair_series
from simgap.certify.verdict import Verdict, sign, weakest

__all__ = [
    "BALL", "Balls", "OverBox", "PairSeries", "Verdict", "enclose_root", "gaussian_expectation", "hermite_coefficient", "interval",
    "pair_series", "positive_over", "precision", "sign", "weakest",
]  # fmt: skip
