"""F1-F5: Frobenius orthogonality does not give activation orthogonality."""
