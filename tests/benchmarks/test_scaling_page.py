"""The tables of docs/scaling.md are those of the stored rows, and a fit finds the rates that made the rows."""

import math
import re

import pytest

import scale
import scale_tables
from antiphase.training.device_speed import H100
from antiphase.training.model_shape import Machine
from docs_pages import DOCS, ROOT

RESULTS = ROOT / "benchmarks" / "results"
NUMBER = re.compile(r"-?\+?\d[\d,]*\.?\d*(?:e[+-]?\d+)?")


def part(text, name):
    begin, end = f"<!-- {name}: made by benchmarks/scale.py -->", f"<!-- end of {name} -->"
    return text.partition(begin)[2].partition(end)[0].strip("\n")


@pytest.fixture(scope="module")
def parts():
    return scale.parts(RESULTS)


def test_the_tables_are_those_of_the_stored_rows(parts) -> None:
    text = (DOCS / "scaling.md").read_text(encoding="utf-8")
    for name, lines in parts.items():
        stored, made = part(text, name), "\n".join(lines)
        # Another version of the solver may round a fit to the next number.
        assert NUMBER.sub("#", stored) == NUMBER.sub("#", made), name
        if name in ("training", "memory", "plans"):
            assert stored == made
            continue
        numbers = ([float(word.replace(",", "")) for word in NUMBER.findall(side)] for side in (stored, made))
        for one, other in zip(*numbers, strict=True):
            assert math.isclose(one, other, rel_tol=0.05, abs_tol=2), name


def test_a_part_without_a_place_is_named(parts, monkeypatch) -> None:
    monkeypatch.setattr(scale, "parts", {RESULTS: parts}.__getitem__)
    with pytest.raises(ValueError, match=r"docs/scaling\.md has no place for scale-cpu"):
        scale.written("", RESULTS)


def test_a_fit_finds_the_rates_that_made_the_rows() -> None:
    machine, rows = Machine(gpu=True, element=2), []
    for name, shape in scale.REAL.items():
        for operation, measured in (("forward", 0), ("own", 8128), ("head", 8128), ("last", 128), ("full, steps", 4)):
            for length in (512, 8192):
                phases = scale.gpu_phases(shape, 1, length, operation, measured, machine)
                rows.append((name, operation, 1, length, H100.seconds(phases), phases))
    found = scale.fitted(rows, gpu=True)
    for rate in scale.GPU_RATES:
        assert getattr(found, rate) == pytest.approx(getattr(H100, rate), rel=1e-3)
    assert scale.predicted(rows, gpu=True) == pytest.approx([row[4] for row in rows], rel=1e-3)


def test_the_rates_of_the_h100_are_those_of_its_rows() -> None:
    """The rates in the code are the fitted ones, rounded."""
    import json

    stored = json.loads((RESULTS / "gpu-nvidia-h100-80gb-hbm3.json").read_text(encoding="utf-8"))
    found = scale.fitted(scale.gpu_rows(stored), gpu=True)
    for rate in scale.GPU_RATES:
        assert getattr(H100, rate) == pytest.approx(getattr(found, rate), rel=0.05)
    assert H100.column == scale.COLUMN
    assert set(scale_tables.PLANNED) == {"1.5B", "7B", "32B", "70B"}
