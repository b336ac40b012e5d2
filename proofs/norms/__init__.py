"""L1-L2: what normalisation does to angles."""
