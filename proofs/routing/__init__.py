"""I1-I2: what routing shares by chance with labels of its tokens, and with another routing."""
