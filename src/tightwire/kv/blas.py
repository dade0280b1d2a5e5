"""Matrix products of numpy, for those who encode and decode on threads of their own beside an engine."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

_SETTERS = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads")


def on_one_thread() -> bool:
    """From now on numpy's OpenBLAS multiplies on the calling thread alone, in the whole process; what else uses it, or another
    BLAS, is left alone. Its own threads wait by spinning, which takes the processors of an engine that computes, and
    then theirs: the products of one chunk took fifty times as long. False where numpy brings no OpenBLAS."""
    for path in (Path(np.__file__).parent.with_name("numpy.libs")).glob("lib*openblas*"):
        library = ctypes.CDLL(str(path))  # the one that numpy has loaded
        for name in _SETTERS:
            if hasattr(library, name):
                getattr(library, name)(1)
                return True
    return False
