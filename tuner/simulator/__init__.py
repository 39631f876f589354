"""A discrete-event sglang on the engine model: in virtual time, or behind sglang's HTTP protocol."""
