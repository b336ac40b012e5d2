"""N1-N7: overlap that means nothing."""
