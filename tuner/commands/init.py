"""`tuner init`: a space file to begin with."""

from __future__ import annotations


def init() -> None:
    """Write a commented space file for a model and a pool."""
