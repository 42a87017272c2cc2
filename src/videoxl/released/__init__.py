"""The calling styles of the released packages, as thin adapters over the engine."""
