"""How far the engine model may be off, for whoever shows its predictions. Knows no configuration."""

from __future__ import annotations

_CALIBRATED = ("mi355x", "b200")
_LEFT_OUT = 0.25
"""The largest error on a GPU whose measurements were all left out of the fit is 24 % (docs/engine-model.md)."""
_NEVER_HELD_AGAINST = 0.50
"""No measurement of this GPU is known to the project: as wide as the priors of the fitted constants."""


def relative_error(accelerator: str) -> float:
    """Predicted capacity and cost may be off by this share, up or down."""
    return _LEFT_OUT if accelerator in _CALIBRATED else _NEVER_HELD_AGAINST
