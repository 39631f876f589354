"""The search itself: storage, record, sampler, budget, loop, confirmation, score. The only owner of Optuna."""
