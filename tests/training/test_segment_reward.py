"""The thought or the answer alone in the reward: by hand, empty segments, both engines, and the host at λ = 0."""

import math

import pytest
import torch
from scipy import stats
from trl import GRPOConfig, GRPOTrainer

import antiphase
from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_reward import InversionReward
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.signal_spec import PARTS, SignalSpec
from antiphase.training.callback import InversionCallback
from antiphase.training.probe_set import ProbeSet, probe_policy
from antiphase.training.recipe import parse_recipe
from antiphase.training.reward_functions import NegativeEntropyReward, SelfCertaintyReward
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from antiphase.types import TokenBatch
from conftest import byte_tokenizer, tiny_model
from training_cases import flags, run, same

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
PROMPTS = ("one", "one", "two", "two")
TEXTS = (
    "<think>It is 3. No! Is it 4? Yes. So it is. Good.</think>\nIt is 4. Done. Or is it? It is so. Well then. Yes.",
    "Nothing is thought here. It is 5. Is it so? It is. Well. So be it.",
    "<think>It never ends. On. And on. And so it goes. Why? So.",
    "",
)


def rollouts():
    tok = byte_tokenizer()
    ids = [[tok(text, add_special_tokens=False).input_ids for text in texts] for texts in (PROMPTS, TEXTS)]
    return RolloutIds(*ids)


def spec(**changes):
    return InversionSpec(**{"splitter": "sentence", "min_steps": 3, "min_tokens": 3, **changes})


def probed(**changes):
    ids = rollouts()
    rows = [
        {"prompt_id": str(i), "prompt_ids": list(p), "completion_ids": list(c)}
        for i, (p, c) in enumerate(zip(ids.prompt_ids, ids.completion_ids, strict=True))
        if c
    ]
    options = {"num_resamples": 10, "progress": False, "allow_short": True, "min_steps": 3, "min_tokens": 3}
    return antiphase.probe(tiny_model(), tokenizer=byte_tokenizer(), rollouts=rows, **{**options, **changes})


@pytest.mark.parametrize("strength", ["mean", "joint"])
@pytest.mark.parametrize("estimator", ["own", "full"])
@pytest.mark.parametrize("segment", PARTS)
def test_the_score_is_that_of_a_probe_of_the_segment(segment, estimator, strength) -> None:
    reward = InversionReward(spec(segment=segment, estimator=estimator, step_strength=strength))
    facts = reward.measure(tiny_model(), rollouts(), byte_tokenizer())
    found = probed(segment=segment, estimators=(estimator,), step_strength=strength).rollouts
    expected = [*found.spearman_step.tolist(), math.nan]
    torch.testing.assert_close(
        facts.scores.correlation, torch.tensor(expected).double(), rtol=0, atol=1e-6, equal_nan=True
    )
    assert facts.scores.correlation.isfinite().tolist() == [True, segment == "answer", segment == "thought", False]


@pytest.mark.parametrize("segment", PARTS)
def test_what_is_measured_and_what_stays(segment) -> None:
    whole = InversionReward(spec(unit="token")).measure(tiny_model(), rollouts(), byte_tokenizer())
    facts = InversionReward(spec(unit="token", segment=segment)).measure(tiny_model(), rollouts(), byte_tokenizer())
    tokens = probed().tokens
    own = tokens[tokens.segment == segment]
    counts = [int((own.prompt_id == str(row)).sum()) for row in range(4)]
    assert facts.scores.num_tokens.tolist() == counts
    for row in range(4):
        rows = own[own.prompt_id == str(row)]
        by_hand = stats.spearmanr(rows.entropy, rows.strength).statistic if len(rows) else math.nan
        assert facts.scores.correlation[row].item() == pytest.approx(by_hand, abs=1e-6, nan_ok=True)
        entropy = rows.entropy.mean() if len(rows) else math.nan
        assert facts.scores.entropy[row].item() == pytest.approx(entropy, abs=1e-5, nan_ok=True)
    # Length, end and repetition are those of the whole rollouts.
    for name in ("length", "truncated", "repetition"):
        torch.testing.assert_close(getattr(facts, name), getattr(whole, name), equal_nan=True)
    # The intrinsic rewards are over the segment too; a rollout without it has none.
    for kind, values in ((SelfCertaintyReward, facts.scores.self_certainty), (NegativeEntropyReward, None)):
        function = kind()
        function.scores = facts.scores
        given = function([""] * 4)
        assert [value is not None for value in given] == [count > 0 for count in counts]
        expected = -facts.scores.entropy if values is None else values
        assert [v for v in given if v is not None] == expected[expected.isfinite()].tolist()


@pytest.mark.parametrize("unit", ["token", "type", "step"])
@pytest.mark.parametrize("strength", ["mean", "joint"])
@pytest.mark.parametrize("estimator", ["own", "last", "full"])
def test_rollouts_without_the_segment_are_undefined(estimator, strength, unit) -> None:
    reward = InversionReward(spec(segment="thought", estimator=estimator, step_strength=strength, unit=unit))
    ids = byte_tokenizer()("No thought.", add_special_tokens=False).input_ids
    facts = reward.measure(tiny_model(), TokenBatch.from_ids([[5], [5]], [ids, ids[:4]]), byte_tokenizer())
    assert facts.scores.inversion.isnan().all()
    assert (facts.scores.num_tokens.tolist(), facts.scores.num_items.tolist()) == ([0, 0], [0, 0])
    assert facts.length.tolist() == [11, 4]
    for undefined, expected in (("neutral", -1.0), ("zero", -1.0), ("worst", -2.0)):
        options = spec(undefined=undefined, segment="thought", weight=1.0)
        combined = InversionReward(options).combine(facts, torch.zeros(2).double(), group_size=2)
        assert combined.term.reward.tolist() == [expected] * 2
        assert combined.metrics["inversion/undefined"] == 1


def test_all_changes_nothing() -> None:
    batch = rollouts().within(None)
    assert InversionReward(spec()).measured(batch, byte_tokenizer()) is batch
    narrow = InversionReward(spec(segment="thought")).measured(batch, byte_tokenizer())
    assert torch.equal(narrow.input_ids, batch.input_ids)
    assert narrow.completion_mask.sum() < batch.completion_mask.sum()
    own = InversionReward(spec(segment="thought"), tags=(("Nothing", "here."),)).measured(batch, byte_tokenizer())
    assert own.completion_mask.sum(1).tolist() == [0, len("Nothing is thought here. "), 0, 0]


@pytest.mark.parametrize("segment", ["thought", "answer"])
def test_weight_0_is_the_host_bitwise(segment, tmp_path) -> None:
    host = run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig)
    ours = run(tmp_path / "ours", inversion_weight=0.0, inversion_segment=segment)
    assert same(host, ours)


def test_training_on_a_segment(tmp_path) -> None:
    """A random model closes no thought: its rollouts are all answer, unless the prompt has begun one."""
    options = {"inversion_weight": 0.5, "max_steps": 1}
    whole = run(tmp_path / "all", **options)
    answer = run(tmp_path / "answer", inversion_segment="answer", **options)
    assert same(whole, answer)
    thought = run(tmp_path / "thought", inversion_segment="thought", **options)
    (row,), (before,) = (read_trajectory(tmp_path / name) for name in ("thought", "all"))
    assert (row["inversion/undefined"], row["rollout/length"]) == (1.0, before["rollout/length"])
    assert math.isnan(row["rollout/entropy"] or math.nan)
    assert not same(whole, thought)


def test_a_checkpoint_of_another_segment_is_refused(tmp_path) -> None:
    options = {"inversion_weight": 0.5, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    run(tmp_path / "t", **options)
    made = run(tmp_path / "t", inversion_segment="answer", train=False, **{**options, "max_steps": 3})
    with pytest.raises(InvalidInputError, match="inversion_segment"):
        made.train(resume_from_checkpoint=True)


def test_flags_and_recipes(model_dir, tmp_path) -> None:
    recipe = parse_recipe(flags(model_dir, tmp_path / "run", inversion_segment="thought"))
    assert recipe.config.inversion_spec().segment == "thought"
    assert recipe.resolved["inversion_segment"] == "thought"
    assert CorRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False).inversion_spec().segment == "all"


@pytest.mark.parametrize("segment", PARTS)
def test_a_probe_set_is_measured_as_a_probe(segment, unchecked) -> None:
    ids = rollouts()
    given = ProbeSet(
        byte_tokenizer(), tuple(map(tuple, ids.prompt_ids[:3])), (0, 1, 2), tuple(map(tuple, ids.completion_ids[:3]))
    )
    options = {"unit": "step", "segment": segment, "min_tokens": 3, "min_steps": 3}
    row = probe_policy(tiny_model(), given, SignalSpec(), num_resamples=10, **options)
    found = probed(**options).result()
    for unit, entry in found["units"].items():
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
            assert row[f"probe/spearman_{unit}{end}"] == pytest.approx(entry[key], abs=1e-6), (unit, key)
        assert row[f"probe/undefined_{unit}"] == entry["num_undefined"] / 3
    assert row["probe/num_tokens"] == found["num_tokens"]
    assert row["probe/length"] == sum(map(len, TEXTS)) / 3
    with pytest.raises(InvalidInputError, match="segment must be one of all"):
        InversionCallback(1, given, segment="both")
