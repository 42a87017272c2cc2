"""Training configurations: settings, data, stages, overrides."""
