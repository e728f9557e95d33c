"""verl loads the plugin through its entry point, in this process and inside a Ray worker."""

import subprocess
import sys
from importlib.metadata import entry_points

from verl_cases import environment, needs_verl

pytestmark = [needs_verl]


IN_RAY = """
import ray

ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")

@ray.remote
class Worker:
    def modes(self):
        import verl  # only this: the entry point must do the rest
        import sys
        loaded = "antiphase.verl.trainer" in sys.modules
        from verl.trainer.ppo.v1 import get_trainer_cls
        return loaded, get_trainer_cls("corr_po").__module__, get_trainer_cls("corr_po").__name__

print("MODES", *ray.get(Worker.remote().modes.remote()))
ray.shutdown()
"""


def test_the_entry_point_names_the_plugin():
    found = [point.value for point in entry_points(group="verl.plugins") if point.name == "antiphase"]
    assert found == ["antiphase.verl.plugin"]


def test_a_ray_worker_that_imports_verl_knows_the_trainer():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_RAY],
        env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert "MODES True antiphase.verl.trainer CorRPOTrainerSync" in done.stdout, done.stdout + done.stderr


def test_a_plugin_that_cannot_load_says_so():
    """verl itself is silent then."""
    code = (
        "import importlib.metadata as m; real = m.version; "
        "m.version = lambda name: '0.10.0' if name == 'verl' else real(name); import verl"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "antiphase could not add its trainers to verl" in done.stderr
    assert "verl 0.10.0 is installed" in done.stderr
