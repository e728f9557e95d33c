"""Fixtures for the tests of reports: real runs, each made at most once in a process.

`conftest` makes them known to every test module. The package is imported inside the fixtures, so that other tests do
not wait for it.
"""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def runs(model_dir, tmp_path_factory) -> Path:
    """Small finished runs of every kind but training. Tests change copies of them."""
    from antiphase.evaluation.compare import compare
    from evaluation_cases import scored
    from report_cases import PATTERN, probed

    folder = tmp_path_factory.mktemp("runs")
    probed(folder / "probe", estimators=("own", "full:6"))
    probed(folder / "again", seed=1, report=False)
    scored(model_dir, PATTERN, out=folder / "eval", by_projection=True)
    scored(model_dir, PATTERN[::-1], out=folder / "eval-b", report=False)
    scored(model_dir, PATTERN, out=folder / "unmeasured", estimators="none")
    compare([f"a={folder / 'eval'}", f"b={folder / 'eval-b'}"], out=folder / "compare", figures=False)
    return folder


@pytest.fixture(scope="session")
def cut(model_dir, tmp_path_factory) -> Path:
    """Runs that were stopped: a probe of two models within the first one, and an evaluation of two tasks."""
    import antiphase
    from antiphase.evaluation.evaluate import evaluate
    from conftest import byte_tokenizer, tiny_model
    from page_cases import cut_after
    from report_cases import PROBE

    folder = tmp_path_factory.mktemp("cut")
    other = folder / "other"
    tiny_model("qwen3").save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    plain = {"figures": False, "progress": False}
    models = [str(model_dir), str(other)]
    cut_after(2, lambda: antiphase.probe(models, out=folder / "probe", **plain, **PROBE))
    options = {"samples": 2, "num_problems": 2, "max_new_tokens": 10, "batch_size": 2, "num_resamples": 500}
    tasks = ("digit_sum:base=3,num_digits=4", "digit_sum:base=4,num_digits=3")
    cut_after(4, lambda: evaluate(models, tasks=tasks, out=folder / "eval", **plain, **options))
    return folder
