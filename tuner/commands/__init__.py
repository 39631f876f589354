"""Commands in modules of their own, registered by `tuner.cli`. Heavy imports live inside the commands."""
