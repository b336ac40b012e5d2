"""A1-A7: what the activation does to angles."""
