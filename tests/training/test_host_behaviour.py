"""What users of TRL's trainer rely on, with CorRPOTrainer in its place: lists, reward models, tools, adapters, errors."""

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from antiphase.errors import InvalidInputError
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer, tiny_model
from training_cases import data, parity, run, same, settings

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def length(completions, **_):
    return [float(len(set(text))) for text in completions]


async def later(completions, **_):
    return [len(text) / 7 for text in completions]


def both(folder, **named):
    """TRL's trainer, and ours with the weight 0, trained with the same arguments."""
    plain = run(folder / "host", trainer=GRPOTrainer, config=GRPOConfig, **named)
    return plain, run(folder / "ours", inversion_weight=0.0, **named)


@pytest.fixture(scope="module")
def reward_model_dir(tmp_path_factory):
    """A saved reward model of random weights, with its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-reward"
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=259, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


class TestRewardFunctions:
    def test_the_lists_of_the_trainer_are_those_of_the_host(self, tmp_path):
        """Before, between and after the batches, the inversion is in none of the four lists."""
        plain, ours = both(tmp_path, rewards=[parity, length], reward_weights=[0.75, 0.25], max_steps=1)
        assert ours.reward_func_names == plain.reward_func_names == ["parity", "length"]
        assert ours.reward_weights.tolist() == plain.reward_weights.tolist() == [0.75, 0.25]
        assert ours.reward_processing_classes == plain.reward_processing_classes == [None, None]
        assert len(ours.reward_funcs) == 2
        assert ours.args.reward_weights == [0.75, 0.25]
        columns = {"parity", "length"}
        assert set(plain._logs["rewards"]) == columns
        assert set(ours._logs["rewards"]) == {*columns, "inversion"}

    def test_the_lists_are_whole_again_after_an_error(self, tmp_path):
        def fails(completions, **_):
            raise ZeroDivisionError("a bug of the user's")

        trainer = run(tmp_path, rewards=[fails], train=False)
        with pytest.raises(ZeroDivisionError):
            trainer.train()
        assert trainer.reward_func_names == ["fails"]
        assert trainer.reward_weights.tolist() == [1.0]

    def test_a_callback_may_change_the_weights_of_rewards(self, tmp_path):
        class Fade(TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                self.trainer.reward_weights = torch.tensor([1.0, 0.5**state.global_step])

        def faded(**named):
            trainer = run(rewards=[parity, length], train=False, **named)
            callback = Fade()
            callback.trainer = trainer
            trainer.add_callback(callback)
            trainer.train()
            return trainer

        plain = faded(folder=tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig)
        ours = faded(folder=tmp_path / "ours", inversion_weight=0.0)
        assert same(plain, ours)
        assert ours.reward_weights.tolist() == [1.0, 0.125]
        assert not same(ours, run(tmp_path / "constant", rewards=[parity, length], inversion_weight=0.0))
        # The task rewards in the trajectory have the weights of their step.
        task = [row["task/mean"] for row in read_trajectory(tmp_path / "ours") if row["kind"] == "step"]
        logs = [log for log in ours.state.log_history if "reward" in log]
        assert task == pytest.approx([log["reward"] for log in logs], rel=1e-5)

    def test_sync_and_async_functions_together(self, tmp_path):
        plain, ours = both(tmp_path, rewards=[parity, later])
        assert same(plain, ours)
        assert ours.reward_func_names == ["parity", "later"]

    def test_objects_that_can_be_called(self, tmp_path):
        class Scaled:
            def __init__(self, factor):
                self.factor = factor

            def __call__(self, completions, **columns):
                return [self.factor * value for value in parity(completions, **columns)]

        plain, ours = both(tmp_path, rewards=[Scaled(2.0), Scaled(-1.0)])
        assert same(plain, ours)
        assert ours.reward_func_names == plain.reward_func_names

    @pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
    def test_the_reward_that_is_logged_has_the_weights(self, tmp_path, aggregation):
        def one(completions, **_):
            return [1.0] * len(completions)

        def zero(completions, **_):
            return [0.0] * len(completions)

        trainer = run(
            tmp_path, rewards=[one, zero], reward_weights=[0.7, 0.3], multi_objective_aggregation=aggregation,
            max_steps=1, inversion_weight=0.0,
        )  # fmt: skip
        assert trainer.state.log_history[0]["reward"] == pytest.approx(0.7)


class TestRewardModels:
    def test_by_name_beside_a_function(self, tmp_path, reward_model_dir):
        plain, ours = both(tmp_path, rewards=[str(reward_model_dir), parity])
        assert same(plain, ours)
        assert ours.reward_func_names == ["tiny-reward", "parity"]

    def test_as_an_object_with_its_tokenizer(self, tmp_path, reward_model_dir):
        tokenizer = byte_tokenizer()
        model = AutoModelForSequenceClassification.from_pretrained(reward_model_dir)
        trainer = run(
            tmp_path,
            rewards=model,
            extra={"reward_processing_classes": tokenizer},
            max_steps=1,
            inversion_weight=0.5,
        )
        assert trainer.reward_processing_classes == [tokenizer]
        assert math.isfinite(read_trajectory(tmp_path)[0]["task/mean"])

    def test_one_tokenizer_for_two_models(self, tmp_path, reward_model_dir):
        with pytest.raises(InvalidInputError, match=r"\(1\) must match the number of reward_funcs \(2\)"):
            run(
                tmp_path,
                rewards=[str(reward_model_dir)] * 2,
                extra={"reward_processing_classes": byte_tokenizer()},
                train=False,
            )


def test_without_any_reward_the_message_begins_as_the_hosts(tmp_path):
    for trainer, config in ((GRPOTrainer, GRPOConfig), (CorRPOTrainer, CorRPOConfig)):
        with pytest.raises(ValueError, match="No reward source provided"):
            trainer(
                tiny_model(), [], config(**settings(tmp_path, config)), train_dataset=data(),
                processing_class=byte_tokenizer(),
            )  # fmt: skip
