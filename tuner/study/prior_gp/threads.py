"""One BLAS thread while the sampler thinks.

Its matrices are small: more threads make a choice no faster, they spin; on two busy cores one choice took nine times
the CPU time. The environment is left alone: engines inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np  # noqa: F401 - loads its BLAS
import scipy.linalg  # noqa: F401 - loads its own
from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Also a decorator."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    """Looks once which libraries are loaded: that takes milliseconds."""
    return ThreadpoolController()
