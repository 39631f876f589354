"""Physics: what a configuration needs in memory and how fast it should be. Predicts; never measures."""
