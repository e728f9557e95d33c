"""The trainer's rewards and advantages on the batches of the TRL trainer, by verl's own advantage functions."""

import inspect
import types

import pytest
import torch
from trl_batches import COMBINES, GROUP, SCALES, WEIGHT, stored
from verl_cases import FOR_CPU, HERE, needs_verl

from antiphase.errors import InvalidInputError

pytestmark = [needs_verl, pytest.mark.usefixtures("on_cpu")]


@pytest.fixture
def on_cpu(monkeypatch):
    """Let this process import verl for a CPU."""
    for name, value in FOR_CPU.items():
        monkeypatch.setenv(name, value)
    import verl  # noqa: F401


class Meta(types.SimpleNamespace):
    """What verl's KVBatchMeta says of a batch."""

    def __len__(self):
        return len(self.keys)


class Queue:
    """The two functions of TransferQueue that a step uses, on a dictionary."""

    def __init__(self):
        self.fields = {}

    def kv_batch_get(self, *, keys, partition_id, select_fields):
        from tensordict import TensorDict

        found = {name: self.fields[name] for name in select_fields if name in self.fields}
        return TensorDict(found, batch_size=[len(keys)])

    def kv_batch_put(self, *, keys, partition_id, fields):
        self.fields.update(fields.items())
        return self.meta


def jagged(rows):
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def queue_of(case):
    """A batch of verl with the rollouts of a stored batch, in another order and with a row of padding."""
    from tensordict import TensorDict

    from antiphase.verl.worker import FACTS

    order = torch.randperm(len(case["task"]), generator=torch.Generator().manual_seed(1)).tolist()
    scores, masks, uids = [], [], []
    for row in order:
        score = torch.zeros(case["lengths"][row])
        score[-1] = case["task"][row]
        scores.append(score)
        masks.append(torch.ones(len(score), dtype=torch.int64))
        uids.append(f"prompt{row // GROUP}")
    facts = torch.tensor(case["facts"], dtype=torch.float64)[order]
    facts = torch.cat([facts, torch.full_like(facts[:1], torch.nan)])
    scores.append(torch.zeros(1)), masks.append(torch.zeros(1, dtype=torch.int64)), uids.append("pad")
    queue = Queue()
    keys = [f"{uid}_{row}_0" for uid, row in zip(uids, [*order, 0], strict=True)]
    tags = [{"is_padding": False}] * len(order) + [{"is_padding": True}]
    queue.meta = Meta(keys=keys, tags=tags, partition_id="train")
    fields = TensorDict({"rm_scores": jagged(scores), "response_mask": jagged(masks), FACTS: facts}, [len(uids)])
    queue.kv_batch_put(keys=keys, partition_id="train", fields=fields)
    from tensordict import NonTensorStack

    queue.fields["uid"] = NonTensorStack(*uids)
    return queue, order


@pytest.fixture
def trainer_of(monkeypatch):
    """Make a trainer without its workers, on a queue."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.v1 import trainer_base

    from antiphase.inversion.inversion_reward import InversionReward
    from antiphase.verl import trainer
    from antiphase.verl.settings import spec_of

    def make(queue, spec, by_std=True):
        monkeypatch.setattr(trainer_base, "tq", queue)
        monkeypatch.setattr(trainer, "transfer_queue", queue)
        made = object.__new__(trainer.CorRPOTrainerSync)
        made._inversion = InversionReward(spec_of(spec))
        made.global_steps, made.total_training_steps = 1, 10
        made.config = OmegaConf.create(
            {
                "algorithm": {
                    "use_kl_in_reward": False,
                    "adv_estimator": "grpo",
                    "gamma": 1.0,
                    "lam": 1.0,
                    "norm_adv_by_std_in_grpo": by_std,
                },
                "actor_rollout_ref": {"rollout": {"n": GROUP}},
            }
        )
        return made

    return make


# What TRL and verl add to the standard deviation of a group.
TRL_EPSILON, VERL_EPSILON = 1e-4, 1e-6


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("combine", COMBINES)
def test_advantages_are_those_of_the_trl_trainer(trainer_of, combine, scale):
    case = stored()[f"{combine}-{scale}"]
    queue, order = queue_of(case)
    before = [row.clone() for row in queue.fields["rm_scores"].unbind()]
    metrics = {}
    trainer_of(queue, case["spec"], scale == "group")._compute_advantage(queue.meta, metrics)
    assert metrics["inversion/weight"] == WEIGHT
    # The scores are the task's again, for verl's metrics.
    assert all(torch.equal(a, b) for a, b in zip(before, queue.fields["rm_scores"].unbind(), strict=True))
    rows = list(queue.fields["advantages"].unbind())
    assert all(bool((row == row[0]).all()) for row in rows)
    assert float(rows[-1].abs().sum()) == 0
    rewards = torch.tensor(case["rewards"], dtype=torch.float64).view(-1, GROUP)
    stds = rewards.std(1, keepdim=True).expand_as(rewards).flatten()
    for row, place in zip(rows, order, strict=False):
        expected = case["advantages"][place]
        if scale == "group":
            # For `centered`, the part of the term is not divided by the standard deviation.
            centre = float(case["rewards"][place] - rewards[place // GROUP].mean())
            std = float(stds[place])
            expected += centre / (std + VERL_EPSILON) - centre / (std + TRL_EPSILON)
        assert float(row[0]) == pytest.approx(expected, abs=2e-5)
    assert len({round(float(row[0]), 4) for row in rows}) > 2


def test_a_batch_with_two_outputs_of_a_session_is_refused(trainer_of):
    case = next(iter(stored().values()))
    queue, _ = queue_of(case)
    first = queue.meta.keys[0]
    queue.meta.keys[1] = f"{first.rpartition('_')[0]}_1"
    with pytest.raises(InvalidInputError, match="several outputs for one rollout"):
        trainer_of(queue, case["spec"])._compute_advantage(queue.meta, {})


def test_the_asynchronous_modes_are_refused_and_the_registry_has_the_trainer():
    from verl.trainer.ppo.v1 import get_trainer_cls

    from antiphase.verl.settings import MODE, REFUSED_MODES
    from antiphase.verl.trainer import CorRPOTrainerSync

    assert get_trainer_cls(MODE) is CorRPOTrainerSync
    for mode in REFUSED_MODES:
        with pytest.raises(InvalidInputError, match=mode):
            get_trainer_cls(mode)(None)


def test_the_configuration_of_verl_is_checked_and_becomes_synchronous(monkeypatch):
    """With verl's own configuration, as its command composes it."""
    from hydra import compose, initialize_config_module
    from verl.trainer.ppo.v1 import PPOTrainerSync

    from antiphase.verl.trainer import CorRPOTrainerSync

    seen = []
    monkeypatch.setattr(PPOTrainerSync, "__init__", lambda self, config: seen.append(config))
    words = ["trainer.v1.trainer_mode=corr_po", "+inversion.weight=0.2", "+inversion.unit=token"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        plain = compose("ppo_trainer", overrides=words)
        with pytest.raises(InvalidInputError, match="FSDP 1"):
            CorRPOTrainerSync(plain)
        trainer = CorRPOTrainerSync(
            compose("ppo_trainer", overrides=[*words, "actor_rollout_ref.actor.strategy=fsdp2"])
        )
    assert seen[0].trainer.v1.trainer_mode == "sync"
    assert trainer._inversion.spec.weight == 0.2


SIGNATURES = {
    "PPOTrainer.__init__": ["self", "config"],
    "PPOTrainer._setup": ["self"],
    "PPOTrainer._init_resource_pool_mgr": ["self"],
    "PPOTrainer._compute_old_log_prob": ["self", "batch", "metrics"],
    "PPOTrainer._compute_advantage": ["self", "batch", "metrics"],
    "TrainingWorker.__init__": ["self", "config"],
    "ActorRolloutRefWorker.init_model": ["self"],
    "FSDPEngine.eval_mode": ["self", "kwargs"],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_of_what_is_overridden_or_called(name):
    from verl.trainer.ppo.v1 import PPOTrainer
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine
    from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

    classes = {kind.__name__: kind for kind in (PPOTrainer, TrainingWorker, ActorRolloutRefWorker, FSDPEngine)}
    owner, method = name.split(".")
    assert list(inspect.signature(getattr(classes[owner], method)).parameters) == SIGNATURES[name]


def test_verl_measures_between_the_old_logprobs_and_the_advantage():
    """The order of the calls in a step, and the class of the worker that the trainer replaces."""
    from verl.trainer.ppo.v1 import PPOTrainer

    source = inspect.getsource(PPOTrainer._step_once)
    calls = [
        source.index(f"self.{name}(") for name in ("_compute_old_log_prob", "_compute_advantage", "_update_actor")
    ]
    assert calls == sorted(calls)
    assert "ray.remote(ActorRolloutRefWorker)" in inspect.getsource(PPOTrainer._init_resource_pool_mgr)
    assert "self.actor_worker_cls(" in inspect.getsource(
        __import__("verl.workers.engine_workers", fromlist=["x"]).ActorRolloutRefWorker.init_model
    )


def test_the_worker_of_the_actor_is_replaced(monkeypatch):
    from verl.trainer.ppo.utils import Role
    from verl.trainer.ppo.v1 import PPOTrainer

    from antiphase.verl.trainer import CorRPOTrainerSync
    from antiphase.verl.worker import InversionTrainingWorker, InversionWorker

    def workers(self):
        self.role_worker_mapping = {Role.ActorRolloutRef: "verl's", Role.Critic: "critic"}

    monkeypatch.setattr(PPOTrainer, "_init_resource_pool_mgr", workers)
    made = object.__new__(CorRPOTrainerSync)
    made._init_resource_pool_mgr()
    actor = made.role_worker_mapping[Role.ActorRolloutRef].__ray_actor_class__
    assert issubclass(actor, InversionWorker)
    assert made.role_worker_mapping[Role.Critic] == "critic"
    assert InversionWorker.actor_worker_cls is InversionTrainingWorker


def test_the_recipe_is_accepted():
    """Hydra composes the words of recipes/verl/run.sh, and the trainer's checks accept them."""
    import re

    from hydra import compose, initialize_config_module

    from antiphase.verl.settings import MODE, check_config, spec_of

    script = (HERE.parents[1] / "recipes" / "verl" / "run.sh").read_text()
    script = re.sub(r"\$\{(\w+):[-?]([^}]*)\}", r"\2", script).replace(
        "a folder with train.parquet and test.parquet", "x"
    )
    words = re.findall(r"^    (\S+=\S+)", script, flags=re.MULTILINE)
    words = [word.replace('"', "").replace("$DATA", "x") for word in words]
    assert len(words) > 20
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=words)
    check_config(config)
    assert config.trainer.v1.trainer_mode == MODE
    assert spec_of(config.inversion).combine == "penalty"
