"""Every law as a theorem: stated with its hypotheses, derived, certified, simulated, and refuted when a constant is moved."""
