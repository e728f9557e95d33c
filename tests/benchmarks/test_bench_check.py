"""`make bench-check` fails where a ratio has risen, and the pieces of the benchmarks compute what they say."""

import doctest
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import cases
import check
import limits
import page_tables
import peers
import profiles
import rows

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Tree:
    """Works whose time is what this says, and how often they ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.seconds, self.later, self.runs = seconds, seconds, 0
        monkeypatch.setattr(rows, "seconds", lambda work: work())
        monkeypatch.setattr(check, "memory_row", lambda: self.row(check.MEMORY, 1.5))
        monkeypatch.setattr(check, "MEASURES", {"own": check.Measure("own ÷ plain", lambda: (self.work, lambda: 2.0))})

    def work(self) -> float:
        self.runs += 1
        return self.seconds if self.runs <= check.ROUNDS + 1 else self.later

    @staticmethod
    def row(name: str, ratio: float) -> dict[str, object]:
        return {"name": name, "about": name, "rounds": 1} | rows.spread([ratio], "ratio")


def checked(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of the command."""
    monkeypatch.setattr(sys, "argv", ["check.py", *words])
    try:
        check.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_slower_tree_fails_and_an_equal_one_passes(monkeypatch, tmp_path, capsys) -> None:
    words = ("--baseline", str(tmp_path / "baseline.json"))
    tree = Tree(monkeypatch, 2.6)
    assert checked(monkeypatch, "--store", *words) == 0
    stored = {row["name"]: row["ratio_p50"] for row in json.loads((tmp_path / "baseline.json").read_text())["rows"]}
    assert stored == {"own": 1.3, check.MEMORY: 1.5}

    for seconds, status in ((2.6, 0), (2.85, 0), (1.3, 0), (2.9, 1)):
        tree.seconds = tree.later = seconds
        assert checked(monkeypatch, *words) == status, seconds
    assert "own: own ÷ plain is 1.45, and the stored ratio is 1.3. It has risen by 12%" in capsys.readouterr().out

    tree.seconds = tree.later = 2.6
    monkeypatch.setattr(check, "memory_row", lambda: tree.row(check.MEMORY, 1.7))
    assert checked(monkeypatch, *words) == 1
    # A part of the measures: memory is not run.
    assert checked(monkeypatch, "--only", "own", *words) == 0


def test_more_rounds_decide_where_the_first_ones_were_disturbed(monkeypatch, tmp_path) -> None:
    words = ("--baseline", str(tmp_path / "baseline.json"))
    tree = Tree(monkeypatch, 2.6)
    assert checked(monkeypatch, "--store", *words) == 0
    tree.runs, tree.seconds = 0, 5.0
    assert checked(monkeypatch, *words) == 0
    assert tree.runs == (check.ROUNDS + 1) + (check.ROUNDS * check.AGAIN + 1)
    # A tree that is really slower stays slower in all rounds.
    tree.runs, tree.later = 0, 5.0
    assert checked(monkeypatch, *words) == 1


def test_a_short_measure_compares_the_least_times(monkeypatch) -> None:
    monkeypatch.setattr(rows, "seconds", lambda work: work())
    works, references = iter([9.0, 3.0, 1.0, 8.0]), iter([9.0, 4.0, 6.0, 2.0])
    short = check.Measure("", lambda: (lambda: next(works), lambda: next(references)), 10, short=True)
    assert check.time_row("short", short, 3)["ratio_p50"] == 10 * 1.0 / 2.0
    works, references = iter([9.0, 3.0, 1.0, 9.0, 8.0]), iter([9.0, 4.0, 6.0, 9.0, 2.0])
    long = check.Measure("", lambda: (lambda: next(works), lambda: next(references)), 10)
    row = check.time_row("long", long, 2)
    assert row["ratio_p50"] == pytest.approx(10 * (3 / 4 + 1 / 6) / 2)
    # The times of an earlier try count too.
    assert check.time_row("long", long, 1, row["seconds"])["ratio_p50"] == 10 * 3 / 4
    assert "seconds" not in check.without_times(row)


def test_what_counts_as_wrong() -> None:
    row = Tree.row("head", 1.0)
    assert check.failures([row], {"head": 1.0}) == []
    assert check.failures([row], {"head": 1 / 1.099}) == []
    assert len(check.failures([row], {"head": 1 / 1.101})) == 1
    assert "no ratio is stored" in check.failures([row], {})[0]
    assert len(check.failures([row | {"ratio_p50": math.nan}], {"head": 1.0})) == 1


def test_every_measure_has_a_stored_ratio() -> None:
    stored = json.loads(check.BASELINE.read_text())["rows"]
    assert {row["name"] for row in stored} == {*check.MEASURES, check.MEMORY}
    assert all(0 < row["ratio_p50"] < math.inf for row in stored)


def test_the_first_round_warms_up_unless_the_works_are_warm(monkeypatch) -> None:
    monkeypatch.setattr(rows, "seconds", lambda work: work())
    times = iter([9.0, 1.0, 2.0, 3.0])
    assert rows.in_turns({"work": lambda: next(times)}, 2) == {"work": [1.0, 2.0]}
    assert rows.in_turns({"work": lambda: next(times)}, 1, warm=True) == {"work": [3.0]}


def _forty_mib():
    return lambda: torch.ones(10 * 2**20).sum()


def test_peak_of_a_fresh_process() -> None:
    assert 35 < rows.peak_apart(_forty_mib) < 60


def test_products_are_those_that_pytorch_counts() -> None:
    model, tokens = cases.llama(cases.SMALL), 48
    model.set_attn_implementation("eager")
    products = limits.Products(model.config)
    ids = cases.random_ids(tokens, cases.SMALL["vocab_size"])
    with FlopCounterMode(display=False) as counter:
        cases.plain(model, ids)
    # The counter sees six products of the whole square of the attention, and `Products` their causal half.
    heads, layers = cases.SMALL["hidden_size"], cases.SMALL["num_hidden_layers"]
    square = 6 * layers * heads * (2 * tokens**2 - tokens * (tokens + 1))
    assert counter.get_total_flops() == products.of("plain", tokens) + square
    with FlopCounterMode(display=False) as counter:
        model.lm_head(torch.randn(tokens, heads))
    head = counter.get_total_flops()
    forward, backward = products.forward(tokens), products.backward(tokens, 2)
    assert products.of("own", tokens) == forward + head + backward
    width, keys = heads, heads * model.config.num_key_value_heads // model.config.num_attention_heads
    with FlopCounterMode(display=False) as counter:
        for place in range(1, tokens + 1):
            # The inputs have at most `width` directions, so a factor of them has no more columns.
            gradient = torch.randn(keys, place) @ torch.randn(place, min(place, width))
            gradient @ gradient.T
    row = forward + head + products.backward(tokens) / layers
    assert products.of("last", tokens) == row + counter.get_total_flops()
    assert products.of("full", tokens, [10, 20]) == forward + head + products.backward(10) + products.backward(20)


# The eager attention of transformers, which `torch.func` needs, computes its softmax in float32.
@pytest.mark.parametrize(("name", "tolerance"), [(peers.AUTOGRAD, 1e-12), (peers.FUNC, 1e-6), ("full", 1e-9)])
def test_peers_give_the_norms_of_the_oracle(name: str, tolerance: float) -> None:
    ids = cases.random_ids(24, cases.SMALL["vocab_size"])
    truth = peers.strengths(cases.llama(cases.SMALL, torch.float64), ids, "oracle", 5)
    found = peers.strengths(cases.llama(cases.SMALL, torch.float64), ids, name, 5)
    torch.testing.assert_close(found, truth, rtol=tolerance, atol=0)
    assert peers.answer(found, truth, None)["same_answer"] == "yes"
    assert peers.answer(found * 1.01, truth, None)["same_answer"] == "no"


def test_no_benchmark_hides_a_module_of_python() -> None:
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert not names & set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", [page_tables, profiles])
def test_examples(module) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
