import os
import subprocess
import sys

import numpy as np
import pytest

from tightwire.kv import blas

SCRIPT = """
import ctypes, pathlib, numpy as np
from tightwire.kv import blas
(path,) = pathlib.Path(np.__file__).parent.with_name("numpy.libs").glob("lib*openblas*")
count = ctypes.CDLL(str(path)).scipy_openblas_get_num_threads64_
before = count()
print(before, blas.on_one_thread(), count())
"""


def test_numpy_multiplies_on_one_thread_from_then_on() -> None:
    """In a process of its own, as it is for all of it."""
    if not blas.on_one_thread():
        pytest.skip("numpy brings no OpenBLAS here")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    before, limited, after = found.stdout.split()
    assert (limited, after) == ("True", "1")
    assert int(before) <= 2
    a = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(a @ a.T, [[14, 38, 62], [38, 126, 214], [62, 214, 366]])
