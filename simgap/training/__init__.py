"""What moves weights: so far, descent on two regularisers."""

from simgap.training.gram_descent import RegulariseGram, gram_descent
from simgap.training.pairwise_descent import RegularisePairs, pairwise_descent

__all__ = ["RegulariseGram", "RegularisePairs", "gram_descent", "pairwise_descent"]
