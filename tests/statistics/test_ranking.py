"""Scores against correctness, inside a model and across models: enumeration, sklearn, scipy, and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from antiphase.errors import InvalidInputError
from antiphase.statistics.accuracy import pass_at_k
from antiphase.statistics.association import rank_association
from antiphase.statistics.ranking import best_of_k, problem_aurocs, within_problem_auroc

# Within problems

scored = st.lists(
    st.tuples(st.sampled_from([math.nan, -math.inf, 0.0, 0.5, 2.0, math.inf]), st.booleans()), min_size=1, max_size=7
).map(lambda pairs: (np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])))


@given(st.lists(scored, min_size=1, max_size=4))
def test_aurocs_equal_those_of_sklearn(rollouts):
    expected = []
    for scores, correct in rollouts:
        defined = ~np.isnan(scores)
        mixed = len(set(correct[defined].tolist())) == 2
        finite = np.nan_to_num(scores[defined], posinf=9.0, neginf=-9.0)  # The same ranks: sklearn refuses infinity.
        expected.append(roc_auc_score(correct[defined], finite) if mixed else math.nan)
    names = np.repeat(np.arange(len(rollouts)), [len(scores) for scores, _ in rollouts])
    scores, correct = (np.concatenate(parts) for parts in zip(*rollouts, strict=True))
    np.testing.assert_allclose(problem_aurocs(scores, correct, names), expected, rtol=1e-12)
    estimate = within_problem_auroc(scores, correct, names)
    assert estimate.num_problems == np.sum(~np.isnan(expected))
    if estimate.defined:
        assert estimate.value == pytest.approx(np.nanmean(expected), rel=1e-12)


@given(st.lists(scored, min_size=1, max_size=4), st.randoms())
def test_the_rollouts_of_a_problem_may_stand_anywhere(rollouts, random):
    names = np.repeat(np.arange(len(rollouts)), [len(scores) for scores, _ in rollouts])
    scores, correct = (np.concatenate(parts) for parts in zip(*rollouts, strict=True))
    order = list(range(len(names)))
    random.shuffle(order)
    whole = dict(zip(dict.fromkeys(names.tolist()), problem_aurocs(scores, correct, names), strict=True))
    moved = problem_aurocs(scores[order], correct[order], names[order])
    np.testing.assert_array_equal(moved, [whole[name] for name in dict.fromkeys(names[order].tolist())])


def test_no_rollouts_and_undefined_scores():
    assert problem_aurocs(np.array([]), np.array([], dtype=bool), []).shape == (0,)
    found = problem_aurocs(np.array([math.nan, 1.0, 2.0]), np.array([True, False, True]), ["a", "b", "b"])
    np.testing.assert_array_equal(found, [math.nan, 1.0])


def test_difficulty_cancels():
    # Across problems the score follows difficulty perfectly; within each it misleads.
    scores = np.array([1.0, 2.0, 11.0, 12.0, 21.0, 22.0])
    correct = np.array([True, False, True, False, True, False])
    assert within_problem_auroc(scores, correct, ["a", "a", "b", "b", "c", "c"]).value == 0


@pytest.mark.parametrize("num_problems", [10, 20, 50])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_auroc_intervals_cover(num_problems, shift):
    truth = 0.5 * math.erfc(-shift / 2)  # Φ(shift/√2), the probability that N(shift, 1) exceeds N(0, 1)
    generator = np.random.default_rng(num_problems)
    correct = np.tile([True, True, False, False], num_problems)
    names = np.repeat(np.arange(num_problems), 4)
    hits = []
    for _ in range(500):
        scores = generator.normal(size=4 * num_problems) + shift * correct
        estimate = within_problem_auroc(scores, correct, names)
        hits.append(estimate.low <= truth <= estimate.high)
    assert 0.92 <= np.mean(hits) <= 0.98


def _pick_by_hand(scores, correct, k):
    ranked = [-math.inf if math.isnan(score) else score for score in scores]
    picked = []
    for subset in itertools.combinations(range(len(ranked)), k):
        best = max(ranked[i] for i in subset)
        ties = [float(correct[i]) for i in subset if ranked[i] == best]
        picked.append(sum(ties) / len(ties))
    return sum(picked) / len(picked)


@given(scored, st.data())
def test_best_of_k_counts_subsets(rollouts, data):
    scores, correct = rollouts
    k = data.draw(st.integers(1, len(scores)))
    best = best_of_k(scores, correct, ["a"] * len(scores), k)
    assert best.item() == pytest.approx(_pick_by_hand(scores, correct, k), rel=1e-9, abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.data())
def test_best_of_k_between_chance_and_an_oracle(correct, data):
    correct, names = np.array(correct), ["a"] * len(correct)
    k = data.draw(st.integers(1, len(correct)))
    oracle = best_of_k(correct.astype(float), correct, names, k).item()
    assert oracle == pytest.approx(pass_at_k(len(correct), int(correct.sum()), k), rel=1e-9)
    assert best_of_k(np.ones(len(correct)), correct, names, k).item() == pytest.approx(correct.mean(), rel=1e-9)


def test_problems_keep_the_order_of_their_first_rollout():
    scores, correct = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, False, True])
    assert best_of_k(scores, correct, ["z", "a", "z", "a"], 2).tolist() == pytest.approx([0.0, 1.0])


# Across models

few_values = st.integers(0, 4).map(float)


def _pairs(num):
    return st.lists(st.tuples(few_values, few_values), min_size=3, max_size=num).map(
        lambda pairs: (np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]))
    )


@given(_pairs(6))
def test_associations_equal_scipy(series):
    x, y = series
    ours = rank_association(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(ours.spearman)
        assert math.isnan(ours.p_value)
        return
    assert ours.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    # scipy doubles a one-sided p; the size of the coefficient, one-sided, is the two-sided test.
    test = stats.permutation_test(
        (y,),
        lambda shuffled: abs(round(stats.spearmanr(x, shuffled).statistic, 10)),
        permutation_type="pairings",
        alternative="greater",
        vectorized=False,
        n_resamples=math.inf,
    )
    assert ours.p_value == pytest.approx(test.pvalue, abs=1e-12)


def test_random_permutations_approach_all():
    generator = np.random.default_rng(0)
    x = generator.normal(size=8)
    y = x + generator.normal(size=8)
    ranks = (np.array(list(itertools.permutations(range(8)))) - 3.5) @ (x.argsort().argsort() - 3.5) / 42
    ours = rank_association(x, y)
    exact = np.mean(np.abs(ranks) >= abs(ours.spearman) - 1e-12)
    # Four standard errors of 10 000 draws.
    assert ours.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))
    assert ours.p_value != exact
    assert rank_association(x, y, num_permutations=99).p_value * 100 == pytest.approx(
        round(rank_association(x, y, num_permutations=99).p_value * 100)
    )


def test_a_perfect_order_of_few_models_is_not_certain():
    rising = np.arange(5.0)
    up, down = rank_association(rising, rising**3), rank_association(rising, -rising)
    center = math.atanh(1 - 6 / (5 * 24))
    reach = 1.959963984540054 * math.sqrt((1 + 0.95**2 / 2) / 2)
    assert (up.spearman, up.high) == (1, 1)
    assert up.low == pytest.approx(math.tanh(center - reach), rel=1e-9)
    assert (down.spearman, down.low, down.high) == (-1, -1, pytest.approx(-up.low, rel=1e-9))
    assert up.p_value == 2 / 120
    three = rank_association(rising[:3], rising[:3])
    assert three.spearman == 1
    assert math.isnan(three.low)


def test_gaps_are_left_out():
    x, y = np.array([1.0, 2.0, math.nan, 4.0, 3.0, 9.0]), np.array([1.0, 3.0, 0.0, 2.0, math.nan, 5.0])
    assert rank_association(x, y) == rank_association(np.array([1.0, 2, 4, 9]), np.array([1.0, 3, 2, 5]))


def test_blocks_of_y_move_whole():
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(5, 3)), generator.normal(size=(5, 3)).round(1)
    ours = rank_association(x.ravel(), y.ravel(), clusters=np.repeat(list("abcde"), 3))
    values = [
        stats.spearmanr(x.ravel(), y[list(order)].ravel()).statistic for order in itertools.permutations(range(5))
    ]
    assert ours.p_value == np.mean(np.abs(values) >= abs(ours.spearman) - 1e-12)
    assert (ours.num_points, ours.num_clusters) == (15, 5)


def test_only_clusters_of_one_size_change_places():
    # a, b, c have two points each and d, e one: 3! · 2! arrangements.
    clusters = ["a", "a", "b", "b", "c", "c", "d", "e"]
    x = y = np.arange(8.0)
    assert rank_association(x, y, clusters=clusters).p_value == 1 / 12
    # d with three points has no partner, and three exchangeable clusters are too few.
    alone = ["a", "a", "b", "b", "c", "c", "d", "d", "d"]
    assert math.isnan(rank_association(np.arange(9.0), np.arange(9.0), clusters=alone).p_value)


def test_runs_widen_the_interval_and_their_test_keeps_its_level():
    generator = np.random.default_rng(4)
    clusters = np.repeat(np.arange(8), 4)
    rejected = {"points": 0, "runs": 0}
    narrower = 0
    for _ in range(200):
        x, y = (np.repeat(generator.normal(size=8), 4) + 0.3 * generator.normal(size=32) for _ in range(2))
        points = rank_association(x, y, num_permutations=200)
        runs = rank_association(x, y, clusters=clusters, num_permutations=200, num_resamples=100)
        rejected["points"] += points.p_value <= 0.05
        rejected["runs"] += runs.p_value <= 0.05
        narrower += (runs.high - runs.low) < (points.high - points.low)
    # 200 independent trials at 5 %: 10 expected, three standard errors are 9.2; ignoring runs rejects far too often.
    assert rejected["runs"] <= 19
    assert rejected["points"] >= 40
    assert narrower <= 10


def test_fisher_intervals_cover():
    generator = np.random.default_rng(5)
    rho = 0.6
    truth = 6 / math.pi * math.asin(rho / 2)  # Spearman's of a bivariate normal
    hits = []
    for _ in range(1000):
        x, noise = generator.normal(size=(2, 20))
        estimate = rank_association(x, rho * x + math.sqrt(1 - rho**2) * noise, num_permutations=1)
        hits.append(estimate.low <= truth <= estimate.high)
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_k(np.zeros(3), np.ones(3, bool), ["x", "x", "y"], 2), "problem 'y': .* got k=2 with 1 roll"),
        (lambda: within_problem_auroc(np.zeros(2), np.ones(2, bool), ["x"]), "got 1 names for 2 scores"),
        (
            lambda: rank_association(np.zeros(2), np.zeros(2), clusters=["a"]),
            "one run for every point; got 1 for 2 points",
        ),
        (
            lambda: rank_association(np.array([1.0, math.inf]), np.zeros(2)),
            "'x' and 'y' must each hold one finite value",
        ),
    ],
)
def test_bad_points_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_associations_print_and_serialise():
    undefined = rank_association(np.zeros(4), np.arange(4.0))
    assert str(undefined) == "undefined (n=4)"
    assert set(undefined.to_dict().values()) == {None, 4}
    assert str(rank_association(np.arange(4.0), np.array([0.0, 1, 3, 2]))).startswith("+0.800 [")
