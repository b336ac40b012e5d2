"""Vectors of untrained experts on a token: law N2 for outputs, N1, N4, A7, A5 and L1 for what comes before; their spread by N2B."""

from simgap.nulls.mean_overlap import null

__all__ = ["null"]
