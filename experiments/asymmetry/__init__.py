"""Do experts that do different things read and write in the same places? What untrained experts already show of it."""
