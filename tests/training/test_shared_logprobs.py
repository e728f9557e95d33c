"""`share_logprobs`: TRL takes the policy's old log-probabilities from the measurement, where it needs them."""

import inspect
import itertools

import pytest
import torch
from trl import GRPOTrainer

from antiphase.errors import InvalidInputError
from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.training.host import HostError
from antiphase.training.shared_logprobs import needs_old_logprobs
from antiphase.training.trainer import CorRPOTrainer
from conftest import tiny_model
from training_cases import run, same, settings, weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
TWICE = {"num_iterations": 2}


class Recording(CorRPOTrainer):
    """Keeps what TRL is given as old log-probabilities, and counts the forward passes outside the loss."""

    def __init__(self, *args, **kwargs):
        self.old, self.forwards = [], 0
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        self.old.append((output.get("old_per_token_logps"), mask.bool(), output["completion_ids"]))
        return output


@pytest.fixture
def counted(monkeypatch):
    """The numbers of rows of TRL's forward passes without gradient."""
    rows, forward = [], GRPOTrainer._get_per_token_logps_and_entropies

    def counting(self, model, input_ids, *args, **kwargs):
        if not torch.is_grad_enabled():
            rows.append(len(input_ids))
        return forward(self, model, input_ids, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", counting)
    return rows


@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 2, "num_iterations": 1}], ids=["twice", "split"])
@pytest.mark.parametrize("estimator", ["own", "last"])
def test_the_numbers_are_those_of_the_host(tmp_path, counted, changes, estimator):
    changes = {**TWICE, "inversion_weight": 0.0, "inversion_estimator": estimator, "max_steps": 4, **changes}
    plain = run(tmp_path / "host", trainer=Recording, **changes)
    assert counted
    counted.clear()
    ours = run(tmp_path / "ours", trainer=Recording, share_logprobs=True, **changes)
    assert not counted
    # The first batch is of the same policy. Later batches are sampled by policies that differ by rounding.
    (before, mask, ids), (after, mask_of_ours, ids_of_ours) = plain.old[0], ours.old[0]
    assert torch.equal(ids, ids_of_ours)
    assert torch.equal(mask, mask_of_ours)
    assert mask.any()
    # The log-probabilities are about −6, where float32 numbers lie 5e-7 apart.
    torch.testing.assert_close(after[mask], before[mask], rtol=0, atol=1e-5)
    assert after.isfinite().all()
    for one, other in zip(weights(plain), weights(ours), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
    assert any(not torch.equal(a, b) for a, b in zip(weights(ours), tiny_model().parameters(), strict=True))


def test_without_the_option_the_training_is_the_hosts_bitwise(tmp_path):
    plain = run(tmp_path / "host", trainer=Recording, inversion_weight=0.0, **TWICE)
    ours = run(tmp_path / "ours", trainer=Recording, inversion_weight=0.0, share_logprobs=False, **TWICE)
    assert same(plain, ours)


def test_a_batch_is_measured_once_and_the_reward_is_the_same(tmp_path, monkeypatch):
    calls, measure = [], CorRPOTrainer._measure
    monkeypatch.setattr(CorRPOTrainer, "_measure", lambda self, ids: calls.append(0) or measure(self, ids))
    changes = {**TWICE, "max_steps": 2, "inversion_weight": 0.5}
    plain = run(tmp_path / "host", **changes)
    count = len(calls)
    ours = run(tmp_path / "ours", share_logprobs=True, **changes)
    assert len(calls) == 2 * count == 2
    for key in ("inversion/mean", "reward", "rollout/strength"):
        assert ours.state.log_history[0][key] == plain.state.log_history[0][key]


def test_the_reference_policy_is_not_replaced(tmp_path, counted, model_dir):
    """With beta, TRL asks for old log-probabilities first, and for those of the reference policy after them."""
    run(tmp_path, trainer=Recording, model=str(model_dir), beta=0.1, share_logprobs=True, max_steps=2, **TWICE)
    assert counted == [8]


def test_rollouts_that_are_not_measured_whole_are_left_to_the_host(tmp_path, counted):
    model = tiny_model(max_position_embeddings=16)
    ours = run(tmp_path, trainer=Recording, model=model, share_logprobs=True, max_steps=2, **TWICE)
    assert counted == [8]
    assert ours.old[0][0].isfinite().all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_iterations": 1}, "in one update"),
        ({"temperature": 0.7}, "temperature"),
        ({"inversion_segment": "thought"}, "segment"),
        ({"bf16": True}, "autocast"),
    ],
    ids=["needless", "temperature", "segment", "autocast"],
)
def test_where_the_numbers_could_differ_it_is_refused(tmp_path, changes, reason):
    with pytest.raises(InvalidInputError, match=f"share_logprobs does not go with this training: .*{reason}"):
        run(tmp_path, share_logprobs=True, train=False, **{**TWICE, **changes})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: tiny_model().bfloat16(), "not float32"),
        (lambda: tiny_model(attention_dropout=0.1), "dropout"),
        (lambda: tiny_model("gpt2", resid_pdrop=0.1, attn_pdrop=0.0, embd_pdrop=0.0), "dropout"),
    ],
    ids=["bfloat16", "attention dropout", "dropout"],
)
def test_models_whose_numbers_could_differ_are_refused(tmp_path, model, reason):
    with pytest.raises(InvalidInputError, match=reason):
        run(tmp_path, model=model(), share_logprobs=True, train=False, **TWICE)


def test_our_condition_is_that_of_the_host(tmp_path):
    """The condition is read from TRL's settings; here it is compared with what TRL does."""
    for iterations, split, accumulated in itertools.product((1, 2), (1, 2), (1, 2)):
        changes = {
            "num_iterations": iterations, "steps_per_generation": split, "gradient_accumulation_steps": accumulated,
            "per_device_train_batch_size": 4, "max_steps": 1,
        }  # fmt: skip
        trainer = run(tmp_path / f"{iterations}{split}{accumulated}", trainer=Recording, **changes)
        assert (trainer.old[0][0] is not None) == needs_old_logprobs(trainer.args)


def test_a_host_that_does_not_ask_is_an_error(tmp_path, monkeypatch):
    trainer = run(tmp_path, share_logprobs=True, train=False, **TWICE)
    trainer.args.steps_per_generation = trainer.num_iterations = 1
    with pytest.raises(HostError, match="did not ask for old log-probabilities"):
        trainer.train()


def test_a_model_that_is_not_the_policy_is_an_error(tmp_path):
    trainer = run(tmp_path, share_logprobs=True, train=False, **TWICE)
    trainer._awaited, trainer._rollouts = True, RolloutIds([[1]], [[2]])
    with pytest.raises(HostError, match="old log-probabilities of another model or batch"):
        trainer._get_per_token_logps_and_entropies(tiny_model(), torch.tensor([[1, 2]]), torch.ones(1, 2), 1)


def test_it_is_kept_on_resume(tmp_path):
    changes = {**TWICE, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run(tmp_path, share_logprobs=True, **changes)
    again = CorRPOTrainer
    made = run(tmp_path, trainer=again, train=False, **changes)
    with pytest.raises(InvalidInputError, match="share_logprobs"):
        made.train(str(tmp_path / "checkpoint-2"))
    assert settings(tmp_path)["max_steps"] == 3


def test_the_hosts_method_has_the_arguments_that_are_passed_on() -> None:
    names = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert names[:7] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    ]  # fmt: skip
