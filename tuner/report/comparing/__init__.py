"""Studies side by side, and what another price or another limit would change. Pure but for reading the databases."""
