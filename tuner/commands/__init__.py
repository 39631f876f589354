"""The commands with options and output of their own; `tuner.cli` registers them. Heavy imports live inside."""
