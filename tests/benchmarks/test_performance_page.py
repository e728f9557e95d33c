"""The tables of docs/performance.md are those of the stored rows."""

import pytest

import page
from docs_pages import DOCS, ROOT
from page_tables import WORKS, in_turns

RESULTS = ROOT / "benchmarks" / "results"
TIMED = {"seconds_p50": 1.234, "ratio_p50": 0.5, "beside": "naive", "device": "x86_64", "rounds": 3}


def test_the_tables_are_those_of_the_stored_rows() -> None:
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert page.written(text, RESULTS) == text


def test_a_result_that_is_not_stored_leaves_its_place_empty(tmp_path) -> None:
    text = page.written((DOCS / "performance.md").read_text(encoding="utf-8"), tmp_path)
    for name in page.PARTS:
        assert f"<!-- {name}: made by benchmarks/page.py -->\n<!-- end of {name} -->\n" in text
    with pytest.raises(ValueError, match=r"no place for estimators-cpu\.json"):
        page.written("", tmp_path)


def test_rows_of_works_become_a_table_for_each_case() -> None:
    rows = [
        {"case": "head", "work": "naive", "tokens": 4096, **TIMED, "peak_mib": 900.2, "same_answer": "yes",
         "difference": 2e-6},
        {"case": "head", "work": "tiles", "tokens": 4096, **TIMED, "peak_mib": 90.0, "same_answer": "yes",
         "difference": 0.0},
        {"case": "head", "work": "other", "same_answer": "not installed"},
    ]  # fmt: skip
    assert in_turns(rows) == [
        "",
        "**head** (tokens 4,096):",
        "",
        "|  | CPU time | ÷ naive | peak memory | same answer | greatest difference |",
        "| --- | --- | --- | --- | --- | --- |",
        "| naive | 1.23 s | 0.50× | 900 MiB | yes | 2.0e-06 |",
        "| tiles | 1.23 s | 0.50× | 90 MiB | yes | 0 |",
        "| other | – | – | – | not installed | – |",
    ]


def test_the_cost_of_full_is_that_of_one_token() -> None:
    works = [
        {"case": "cost", "work": work, "tokens": 1024, "targets": 4, **TIMED, "seconds_p50": 8.0, "ratio_p50": 2.0,
         "limit_seconds": 4.0, "peak_mib": 1000.0}
        for work in WORKS
    ]  # fmt: skip
    machine = {"case": "machine", "gemm_operations_per_second": 6e10, "copied_bytes_per_second": 1e10}
    lines = page.estimators({"rows": [machine, *works]})
    assert "| 1,024 | 8 s (2.00×) | 8 s (2.00×) | 8 s (2.00×) | 2 s (0.50×) |" in lines
    assert "| 1,024 | 4 s (2.00×) | 4 s (2.00×) | 4 s (2.00×) | 1 s (2.00×) |" in lines
    assert "| 1,024 | 1,000 MiB | 1,000 MiB | 1,000 MiB | 1,000 MiB |" in lines
    assert page.costs([]) == []


def test_the_head_and_a_training_step() -> None:
    work = {"case": "shape", "tokens": 4096, "hidden": 576, "vocabulary": 49152, **TIMED, "tensors_mib": 8.4,
            "entropy_error_of_same_logits": 3e-7, "entropy_same": True, "logprob_same": True}  # fmt: skip
    lines = page.head({"tile_mib": 8.0, "rows": [work | {"work": "a"}, work | {"work": "b", "logprob_same": False}]})
    assert "**shape** (tokens 4,096, hidden 576, vocabulary 49,152):" in lines
    assert lines[-2:] == [
        "| a | 1.23 s | 0.50× | 8 MiB | 3.0e-07 | yes |",
        "| b | 1.23 s | 0.50× | 8 MiB | 3.0e-07 | no |",
    ]
    step = {"setting": "long", "case": "own", "completion_tokens": 512.0, "step_seconds_p50": 9.0,
            "measuring_share": 0.081, "peak_over_grpo": 1.004}  # fmt: skip
    assert page.training({"rows": [step]})[-1] == "| small Llama, 512 tokens | own | 512 | 9 s | 8.1% | 1.00× |"
