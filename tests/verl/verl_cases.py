"""What the tests of verl share: the mark of the tests that need it, and the environment of its processes."""

import importlib.util
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
needs_verl = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("transfer_queue") is None,
    reason="verl is not installed here; make test-verl builds an environment with it",
)
# verl reads these when it is imported.
FOR_CPU = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "cpu_verl",
    "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


def environment():
    """The environment of a process that runs verl on a CPU."""
    return {**os.environ, **FOR_CPU}
