"""The load probe: workload, arrivals, streaming client, search for the capacity, measurement."""
