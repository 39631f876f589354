"""The default sampler: Gaussian processes over the enumerated candidates, with the engine model as prior mean."""
