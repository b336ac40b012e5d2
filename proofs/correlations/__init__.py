"""S1-S2: how a trial-by-trial correlation behaves."""
