"""What users of TRL's trainer rely on, with CorRPOTrainer in its place: lists, reward models, tools and adapters."""

import math
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import trl
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from antiphase.errors import InvalidInputError
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.trainer_config import CorRPOConfig
from antiphase.training.trajectory import read_trajectory
from conftest import byte_tokenizer, shaken, tiny_model
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


class TestPolicies:
    """Bitwise the host's at λ = 0, for policies that are more than a plain model."""

    def test_a_new_adapter_with_a_reference_and_checkpointing(self, tmp_path):
        extra = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")}
        plain, ours = both(tmp_path, extra=extra, beta=0.1, gradient_checkpointing=True)
        assert same(plain, ours)

    def test_an_adapter_that_goes_on(self, tmp_path):
        """TRL adds the adapter `ref`, a copy of the adapter before the training."""

        def made():
            torch.manual_seed(3)
            return get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))

        plain = run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, model=made(), beta=0.1)
        ours = run(tmp_path / "ours", model=made(), beta=0.1, inversion_weight=0.0)
        assert same(plain, ours)
        assert "ref" in ours.model.peft_config

    def test_a_reference_that_follows_the_policy(self, tmp_path, model_dir):
        changes = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
        plain, ours = both(tmp_path, model=str(model_dir), **changes)
        assert same(plain, ours)
        for left, right in zip(plain.ref_model.parameters(), ours.ref_model.parameters(), strict=True):
            assert torch.equal(left, right)

    def test_a_mixture_of_experts_with_its_loss_of_balance(self, tmp_path):
        def made():
            torch.manual_seed(3)
            config = Qwen3MoeConfig(
                vocab_size=259, hidden_size=16, intermediate_size=16, moe_intermediate_size=16, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
                pad_token_id=0, bos_token_id=1, eos_token_id=2,
            )  # fmt: skip
            return shaken(Qwen3MoeForCausalLM(config), noise=1.2)

        plain = run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, model=made())
        ours = run(tmp_path / "ours", model=made(), inversion_weight=0.0)
        assert plain.aux_loss_enabled
        assert same(plain, ours)
        losses = [[log["aux_loss"] for log in it.state.log_history if "aux_loss" in log] for it in (plain, ours)]
        assert losses[0] == losses[1] != []


def multiply(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: The first number.
        b: The second number.

    Returns:
        Their product.
    """
    return a * b


async def multiply_later(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: The first number.
        b: The second number.

    Returns:
        Their product.
    """
    return a * b


CALLS = (
    '<tool_call>\n{"name": "%s", "arguments": {"a": 3, "b": 4}}\n</tool_call>',
    '<tool_call>\n{"name": "%s", "arguments": {"a": 3, "c": 4}}\n</tool_call>',
    "The tool %s is of no use here.",
    "A plain answer, without %s.",
)


class TestTools:
    """A policy that calls a tool rightly, wrongly, and not at all."""

    def trained(self, folder, tool, **named):
        """A trainer after one step, and the ids that the policy wrote in its first turns."""
        template = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
        tokenizer = byte_tokenizer(template.read_text(encoding="utf-8"))
        trainer = run(
            folder, tokenizer=tokenizer, extra={"tools": [tool]}, model=tiny_model(max_position_embeddings=4096),
            max_completion_length=300, max_steps=1, per_device_train_batch_size=4, train=False, **named,
        )  # fmt: skip
        first = [[*tokenizer(text % tool.__name__).input_ids, 2] for text in CALLS]
        done = [*tokenizer("Done.").input_ids, 2]

        def generate(input_ids, **_):
            written = first if len(input_ids) == len(first) else [done] * len(input_ids)
            width = max(map(len, written))
            rows = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in written])
            return torch.cat([input_ids, rows], dim=1)

        with patch.object(trainer.model, "generate", side_effect=generate):
            trainer.train()
        return trainer, first, done

    @pytest.mark.parametrize("tool", [multiply, multiply_later])
    def test_the_training_is_the_hosts_and_the_tools_words_are_not_measured(self, tmp_path, tool):
        plain, _, _ = self.trained(tmp_path / "host", tool, trainer=GRPOTrainer, config=GRPOConfig)
        ours, first, done = self.trained(tmp_path / "ours", tool, inversion_weight=0.0)
        assert same(plain, ours)
        for trainer in (plain, ours):
            log = trainer.state.log_history[0]
            assert log["tools/call_frequency"] == pytest.approx(0.5)
            assert log["tools/failure_frequency"] == pytest.approx(0.5)
        expected = [len(ids) + len(done) * (place < 2) for place, ids in enumerate(first)]
        assert ours._measured.scores.num_tokens.tolist() == expected
