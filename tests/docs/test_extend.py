"""The code of docs/extend.md runs as it stands."""

import re

import pytest

from antiphase.rollouts.engine_names import ENGINES
from antiphase.signal_spec import ESTIMATORS
from antiphase.steps.splitter import SPLITTERS
from docs_pages import DOCS, ROOT

PAGE = (DOCS / "extend.md").read_text(encoding="utf-8")
ADDED = {
    "An estimator": (ESTIMATORS, "hidden-norm"),
    "An engine": (ENGINES, "echo"),
    "A splitter": (SPLITTERS, "clauses"),
}


@pytest.mark.parametrize("heading", ADDED)
def test_the_code_of_a_section_runs(heading, model_dir) -> None:
    registry, name = ADDED[heading]
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0], re.DOTALL)
    quick = "num_prompts=2, max_new_tokens=12, min_tokens=4, num_resamples=10, progress=False"
    code = code.replace('"demo"', repr(str(model_dir))).replace("num_prompts=2", quick)
    try:
        exec(compile(code, "extend.md", "exec"), {"__name__": "extend"})
        assert name in registry
    finally:
        registry.remove(name)


def test_the_tests_that_the_page_names_exist() -> None:
    for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).is_file(), path
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", PAGE):
        assert f"def {name}(" in tests, name
