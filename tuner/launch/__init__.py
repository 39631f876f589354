"""From a configuration to an engine's command line, and the start-up rules a point must pass."""
