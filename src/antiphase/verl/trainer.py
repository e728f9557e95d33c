"""The trainers that the plugin adds to verl: `corr_po`, and the names of asynchronous modes, which are refused.

In each training step, the actor first computes the old log-probabilities of its rollouts. Then it measures the
inversion of these rollouts. Before verl computes advantages, the term of the inversion is added to the rewards. In the
mode `centered`, the term is added to verl's advantages instead. All other arithmetic is verl's.
"""

from typing import Any

import ray
import torch
import transfer_queue
from omegaconf import OmegaConf, open_dict
from tensordict import TensorDict
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils.debug import marked_timer

from antiphase.errors import UnsupportedModelError
from antiphase.inversion.inversion_reward import InversionReward
from antiphase.verl.batch_terms import BatchTerms, batch_terms, check_sessions, with_term
from antiphase.verl.resuming import check_resumed, store_options
from antiphase.verl.settings import MODE, REFUSED_MODES, SECTION, check_config, refuse_mode, spec_of
from antiphase.verl.worker import FACTS, InversionWorker

_ACTORS = (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef)


@register_trainer(MODE)
class CorRPOTrainerSync(PPOTrainerSync):  # type: ignore[misc]
    """verl's synchronous trainer with the inversion in its reward.

    Args:
        config: verl's configuration. Its section `inversion` holds the fields of `InversionSpec`.

    Raises:
        InvalidInputError: the options are wrong, the inversion cannot be measured with the configuration, or the
            training that continues began with other options.
    """

    def __init__(self, config: Any) -> None:
        section = config.get(SECTION)
        given = None if section is None else OmegaConf.to_container(section, resolve=True)
        self._inversion = InversionReward(spec_of(given))
        check_config(config)
        check_resumed(config.trainer, self._inversion.spec)
        # verl chooses its synchronous replay buffer by this name.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    @property
    def inversion_weight(self) -> float:
        """The weight λ of the inversion in the reward at the current step."""
        return self._inversion.spec.weight_at(self.global_steps - 1, self.total_training_steps)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        roles = [role for role in _ACTORS if role in self.role_worker_mapping]
        if len(roles) != 1:
            raise UnsupportedModelError(
                "verl's trainer must give exactly one of the roles Actor, ActorRollout and ActorRolloutRef to a "
                f"worker; got the roles {sorted(map(str, self.role_worker_mapping))}."
            )
        self.role_worker_mapping[roles[0]] = ray.remote(InversionWorker)

    def _setup(self) -> None:
        super()._setup()
        self.actor_rollout_wg.set_inversion(self._inversion.spec)
        store_options(self.config.trainer, self._inversion.spec)

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_old_log_prob(batch, metrics)
        with marked_timer("inversion", self.timing_raw, color="green"):
            self.actor_rollout_wg.compute_inversion(batch)
        return batch

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        where = {"keys": batch.keys, "partition_id": batch.partition_id}
        data = transfer_queue.kv_batch_get(**where, select_fields=["uid", "rm_scores", FACTS])
        scores = list(data["rm_scores"].unbind())
        terms = self._terms(batch, data, scores)
        metrics.update(terms.metrics)
        _put(where, "rm_scores", with_term(scores, terms.reward))
        batch = super()._compute_advantage(batch, metrics)
        # verl's metrics of the score are then those of the task alone.
        _put(where, "rm_scores", scores)
        if self._inversion.spec.combine == "centered":
            fields = ["advantages", "response_mask"]
            done = transfer_queue.kv_batch_get(**where, select_fields=fields)
            pairs = zip(done["advantages"].unbind(), done["response_mask"].unbind(), terms.advantage, strict=True)
            _put(where, "advantages", [old + (term * mask).to(old) for old, mask, term in pairs])
        return batch

    def _terms(self, batch: Any, data: Any, scores: list[torch.Tensor]) -> BatchTerms:
        """Return what the inversion adds to each row of the batch."""
        padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        check_sessions(batch.keys, padding)
        return batch_terms(
            self._inversion,
            torch.stack(list(data[FACTS].unbind())),
            torch.stack([row.double().sum() for row in scores]),
            [str(uid) for uid in data["uid"]],
            padding,
            weight=self.inversion_weight,
        )


def _put(where: dict[str, Any], field: str, rows: list[torch.Tensor]) -> None:
    """Write one field of a batch to verl's TransferQueue. The rows may have different numbers of tokens."""
    nested = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    transfer_queue.kv_batch_put(**where, fields=TensorDict({field: nested}, batch_size=[len(rows)]))


def _refused(mode: str) -> type[PPOTrainerSync]:
    """Return a trainer class for a mode that antiphase refuses. Its constructor raises the error."""

    class RefusedTrainer(PPOTrainerSync):  # type: ignore[misc]
        """A trainer whose constructor raises an error, which explains why its mode is refused."""

        def __init__(self, config: Any) -> None:
            raise refuse_mode(mode)

    return RefusedTrainer


for _mode in REFUSED_MODES:
    register_trainer(_mode)(_refused(_mode))
