"""One BLAS thread while the sampler thinks.

Its matrices are small: more threads make a choice no faster, they spin; on two busy cores one choice took nine times
the CPU time. numpy and scipy bring an OpenBLAS each. Its own switch is used since engines inherit the environment.
With another BLAS nothing happens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np  # noqa: F401 - loads its BLAS
import scipy.linalg  # noqa: F401 - loads its own

_MAPS = Path("/proc/self/maps")
_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Also a decorator."""
    before = [(put, get()) for get, put in _switches()]
    for put, _ in before:
        put(1)
    try:
        yield
    finally:
        for put, count in before:
            put(count)


@lru_cache(maxsize=1)
def _switches() -> list[tuple[Callable[[], int], Callable[[int], object]]]:
    """How to read and set the number of threads of every OpenBLAS in this process."""
    try:
        mapped = {line.split(maxsplit=5)[-1] for line in _MAPS.read_text().splitlines() if "openblas" in line}
    except OSError:
        return []
    found = []
    for path in sorted(mapped):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        names = [f"{prefix}_{{}}_num_threads{suffix}" for prefix in _PREFIXES for suffix in _SUFFIXES]
        name = next((name for name in names if hasattr(library, name.format("set"))), None)
        if name is not None:
            found.append((getattr(library, name.format("get")), getattr(library, name.format("set"))))
    return found
