"""Regularisers of training, one a file: pure torch functions of what a layer computes, differentiable where their formula is."""

from simgap.losses.load_balance import load_balance

__all__ = ["load_balance"]
