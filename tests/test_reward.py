"""Hand-computed cases of the reward term, and the property that gating promises."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphase.errors import InvalidInputError
from antiphase.reward import group_mean, inversion_term, weight_at
from antiphase.scores import ScoreSpec, rollout_scores, shrunk
from antiphase.statistics.correlation import coefficients
from antiphase.types import SignalSpec, TokenBatch, TokenSignals

NAN = math.nan


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def term(inversion, task, accepted=None, group_size=4, **options):
    accepted = torch.tensor([r >= 0.5 for r in task]) if accepted is None else torch.tensor(accepted)
    settings = {"combine": "sum", "weight": 0.5, **options}
    return inversion_term(t(*inversion), t(*task), accepted, group_size=group_size, **settings)


def advantages(reward: torch.Tensor, group_size: int = 4, *, scale: bool = True) -> torch.Tensor:
    """GRPO's own, written out: (R − mean) / (std + 1e-4)."""
    groups = reward.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4) if scale else centred).flatten()


def test_sum_adds_the_score_and_is_inert_in_tied_groups_with_std_normalisation():
    iota = (0.2, -0.4, 0.6, 0.0)
    found = term(iota, (1, 0, 1, 0))
    assert found.reward.tolist() == list(iota)
    assert found.advantage.tolist() == [0, 0, 0, 0]
    assert (t(1, 0, 1, 0) + 0.5 * found.reward).tolist() == pytest.approx([1.1, -0.2, 1.3, 0.0])
    # In a tied group λ = 0.01 and λ = 1 give the same advantages, up to the ε beside the deviation.
    small, large = (advantages(t(1, 1, 1, 1) + weight * found.reward) for weight in (0.01, 1.0))
    assert small.tolist() == pytest.approx(large.tolist(), abs=0.03)
    assert large.abs().max().item() > 1
    # Without division by the deviation λ keeps its meaning.
    small, large = (advantages(t(1, 1, 1, 1) + weight * found.reward, scale=False) for weight in (0.01, 1.0))
    assert (large / small).tolist() == pytest.approx([100.0] * 4)


def test_centered_is_live_in_tied_groups_and_leaves_the_reward_alone():
    found = term((0.2, -0.4, 0.6, 0.0), (1, 1, 1, 1), combine="centered")
    assert found.reward.tolist() == [0, 0, 0, 0]
    assert found.advantage.tolist() == pytest.approx([0.1, -0.5, 0.5, -0.1])
    assert advantages(t(1, 1, 1, 1) + found.reward).tolist() == [0, 0, 0, 0]


def test_gated_pays_accepted_rollouts_alone():
    found = term((0.8, -0.8, 0.8, -0.8), (1, 1, 0, 0), combine="gated", weight=0.2)
    assert found.reward.tolist() == pytest.approx([0.8, -0.8, 0, 0])
    assert found.advantage.tolist() == [0, 0, 0, 0]


def test_gated_bounds_the_bonus_by_half_the_gap():
    # λ = 2 would let −0.8·2 push a right rollout below a wrong one; λ_g is (1 − 0)/2 = 0.5, a quarter of λ.
    found = term((0.8, -0.8, 0.8, -0.8), (1, 1, 0, 0), combine="gated", weight=2.0)
    assert (2.0 * found.reward).tolist() == pytest.approx([0.4, -0.4, 0, 0])
    # With clip 0.5 scores reach half as far, so the bound is twice as wide.
    found = term((0.5, -0.5, 0.5, -0.5), (1, 1, 0, 0), combine="gated", weight=2.0, clip=0.5)
    assert (2.0 * found.reward).tolist() == pytest.approx([0.5, -0.5, 0, 0])


def test_gated_in_groups_of_one_kind():
    right = term((0.8, -0.8, 0.1, 0.0), (1, 1, 1, 1), combine="gated", weight=3.0)
    assert (3.0 * right.reward).tolist() == pytest.approx([2.4, -2.4, 0.3, 0.0])
    wrong = term((0.8, -0.8, 0.1, 0.0), (0, 0, 0, 0), combine="gated", weight=3.0)
    assert wrong.reward.tolist() == [0, 0, 0, 0]


def test_gated_is_inert_where_other_rewards_already_outrank():
    # A wrong rollout with a format bonus has as much as a right one: the term must not decide between them.
    found = term((0.9, 0.1, -0.9, 0.0), (1, 1, 1, 0), (True, False, True, False), combine="gated", weight=0.5)
    assert found.reward.tolist() == [0, 0, 0, 0]


def test_undefined_scores_are_neutral():
    found = term((0.2, NAN, 0.6, NAN), (1, 0, 1, 0))
    assert found.reward.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.4])
    found = term((0.2, NAN, 0.6, NAN), (1, 0, 1, 0), combine="centered")
    assert found.advantage.tolist() == pytest.approx([-0.2, 0, 0.2, 0])
    found = term((0.2, NAN, 0.6, 0.9), (1, 1, 1, 0), combine="gated", weight=0.1)
    assert found.reward.tolist() == pytest.approx([0.2, 0.4, 0.6, 0])
    for combine in ("sum", "centered", "gated", "only"):
        found = term((NAN,) * 4, (1, 0, 1, 0), combine=combine)
        assert found.reward.tolist() == found.advantage.tolist() == [0, 0, 0, 0]


def test_only_replaces_the_reward():
    assert term((0.2, NAN, 0.6, 0.1), (1, 0, 1, 0), combine="only").reward.tolist() == pytest.approx(
        [0.2, 0.3, 0.6, 0.1]
    )


@pytest.mark.parametrize("combine", ["sum", "centered", "gated", "only"])
def test_groups_are_kept_apart_and_may_hold_one(combine):
    two = term((0.2, 0.4, NAN, 0.8), (1, 1, 0, 1), combine=combine, group_size=2)
    first, second = (
        term(i, r, combine=combine, group_size=2) for i, r in (((0.2, 0.4), (1, 1)), ((NAN, 0.8), (0, 1)))
    )
    for name in ("reward", "advantage"):
        assert getattr(two, name).tolist() == pytest.approx(
            getattr(first, name).tolist() + getattr(second, name).tolist()
        )
    alone = term((0.7,), (1,), combine=combine, group_size=1)
    assert alone.advantage.tolist() == [0]
    assert alone.reward.tolist() == ([0] if combine == "centered" else [0.7])


def test_group_mean():
    assert group_mean(t(1, NAN, 3, NAN, NAN, NAN), 3).tolist() == [2, 2, 2, 0, 0, 0]


@given(
    st.integers(2, 6).flatmap(
        lambda size: st.lists(
            st.tuples(st.floats(-1, 1) | st.just(NAN), st.booleans(), st.floats(0, 0.49)), min_size=size, max_size=size
        )
    ),
    st.floats(0, 50),
    st.floats(0.05, 1),
)
def test_gated_never_lets_a_wrong_rollout_outrank_a_right_one(rollouts, weight, clip):
    inversion = t(*(i for i, *_ in rollouts)).clamp(-clip, clip)
    accepted = torch.tensor([right for _, right, _ in rollouts])
    # Right rollouts have at least 0.5 and wrong ones less, whatever else they are paid for.
    task = t(*(0.5 + extra if right else extra for _, right, extra in rollouts))
    found = inversion_term(
        inversion, task, accepted, group_size=len(rollouts), combine="gated", weight=weight, clip=clip
    )
    total = task + weight * found.reward
    if accepted.any() and not accepted.all():
        assert total[accepted].min() > total[~accepted].max()
    assert total[~accepted].tolist() == task[~accepted].tolist()


def test_shrinkage_by_hand():
    # atanh(0.5) = ½ ln 3; 8 of 16 degrees of freedom halve it: tanh(¼ ln 3).
    assert shrunk(t(0.5), torch.tensor([11]), 8.0).item() == pytest.approx(math.tanh(math.log(3) / 4))
    assert shrunk(t(0.5), torch.tensor([11]), 0.0).item() == 0.5
    assert shrunk(t(0.5), torch.tensor([3]), 8.0).item() == 0
    assert 0.5 < shrunk(t(1.0), torch.tensor([50]), 8.0).item() < 1
    assert math.isnan(shrunk(t(NAN), torch.tensor([50]), 8.0).item())


def test_schedules_by_hand():
    def at(progress, schedule, warmup=0.0):
        return weight_at(progress, weight=0.4, schedule=schedule, warmup=warmup)

    assert [at(p, "constant") for p in (0, 0.5, 1)] == [0.4] * 3
    assert [at(p, "warmup") for p in (0, 0.05, 0.1, 1)] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert [at(p, "warmup", 0.5) for p in (0, 0.25, 0.5, 1)] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert [at(p, "linear") for p in (0, 0.25, 0.5, 1)] == pytest.approx([0.4, 0.3, 0.2, 0])
    assert [at(p, "cosine") for p in (0, 1 / 3, 0.5, 1)] == pytest.approx([0.4, 0.3, 0.2, 0])
    assert [at(p, "cosine", 0.2) for p in (0.1, 0.2, 0.6, 1)] == pytest.approx([0.2, 0.4, 0.2, 0])
    assert at(0.5, "constant", 1.0) == pytest.approx(0.2)


def signals(strength):
    strength = torch.tensor(strength)
    entropy = torch.arange(strength.shape[1]).expand_as(strength).double()
    one = torch.ones_like(strength)
    return TokenSignals(
        entropy=entropy,
        logprob=-one,
        strength=strength,
        strength_by_projection=strength[..., None, None],
        logprob_control=one,
        self_certainty=2 * one,
        measured=strength.isfinite(),
        layers=(0,),
        spec=SignalSpec(),
    )


def batch_of(shape) -> TokenBatch:
    rows, columns = shape
    return TokenBatch.from_ids([[1]] * rows, [[row + 2] * (columns - 1) for row in range(rows)])


def test_scores_by_hand():
    strength = torch.tensor([[NAN, 9.0, 7.0, 5.0, 3.0], [NAN, 1.0, 2.0, 3.0, 4.0], [NAN, 2.0, 2.0, 2.0, 2.0]])
    found = rollout_scores(signals(strength.tolist()), batch_of(strength.shape), ScoreSpec(min_tokens=3))
    assert found.inversion.tolist()[:2] == pytest.approx([1, -1])
    assert found.correlation.tolist()[:2] == pytest.approx([-1, 1])
    assert math.isnan(found.inversion[2].item())  # a constant series
    assert found.num_tokens.tolist() == [4, 4, 4]
    assert found.strength.tolist() == [6, 2.5, 2]
    assert found.self_certainty.tolist() == [2, 2, 2]
    clipped = rollout_scores(signals(strength.tolist()), batch_of(strength.shape), ScoreSpec(min_tokens=3, clip=0.3))
    assert clipped.inversion.tolist()[:2] == pytest.approx([0.3, -0.3])
    few = rollout_scores(signals(strength.tolist()), batch_of(strength.shape), ScoreSpec(min_tokens=5))
    assert few.inversion.isnan().all()


def test_controls_draw_by_content():
    generator = torch.Generator().manual_seed(0)
    strength = torch.rand(40, 30, generator=generator).sort(dim=1).values
    strength[:, 0] = NAN
    source, batch = signals(strength.tolist()), batch_of(strength.shape)
    plain = rollout_scores(source, batch, ScoreSpec())
    assert plain.inversion.tolist() == pytest.approx([-1] * 40)
    shuffled = rollout_scores(source, batch, ScoreSpec(control="shuffled"))
    assert shuffled.correlation.tolist() == plain.correlation.tolist()
    assert shuffled.inversion.abs().max() < 0.8
    # Under independence ρ has the standard deviation 1/√(n−1), here 0.19.
    assert abs(shuffled.inversion.mean().item()) < 0.1
    assert 0.1 < shuffled.inversion.std().item() < 0.3
    random = rollout_scores(source, batch, ScoreSpec(control="random", clip=0.5))
    assert random.inversion.abs().max() <= 0.5
    assert random.inversion.abs().max() > 0.4
    for control in ("shuffled", "random"):
        spec = ScoreSpec(control=control)
        whole = rollout_scores(source, batch, spec).inversion
        part = rollout_scores(
            signals(strength[10:12].tolist()), TokenBatch.from_ids([[1]] * 2, [[12] * 29, [13] * 29]), spec
        )
        assert part.inversion.tolist() == whole[10:12].tolist()
        assert whole.tolist() != rollout_scores(source, batch, ScoreSpec(control=control, seed=1)).inversion.tolist()


def test_shuffling_moves_nothing_but_the_order():
    strength = torch.tensor([[NAN, 5.0, 1.0, 8.0, NAN, 2.0, 7.0, 3.0]])
    found = rollout_scores(
        signals(strength.tolist()), batch_of(strength.shape), ScoreSpec(min_tokens=3, control="shuffled")
    )
    orders = torch.tensor([5.0, 1.0, 8.0, 2.0, 7.0, 3.0])[torch.tensor(list(itertools.permutations(range(6))))]
    places = torch.tensor([1.0, 2, 3, 5, 6, 7]).expand(len(orders), 6)
    possible = -coefficients(places, orders, min_tokens=3)
    assert (possible - found.inversion).abs().min() < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_tokens": 2}, "at least 3"),
        ({"shrink": -1.0}, "inversion_shrink"),
        ({"clip": 0.0}, "inversion_clip"),
        ({"clip": 1.5}, "inversion_clip"),
    ],
)
def test_bad_score_specs(options, message):
    with pytest.raises(InvalidInputError, match=message):
        ScoreSpec(**options)
