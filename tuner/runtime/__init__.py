"""Where trials run: here, simulated, or by a user's own command. One Protocol, several adapters."""
