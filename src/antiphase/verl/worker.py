"""The workers of verl that measure the inversion: the actor's process runs the measuring pass on its own engine.

The pass is a forward pass and one backward pass through the engine's module by `antiphase.signals`, without an
optimizer step and without `Parameter.grad`. verl's engine is used as it is, so the pass works with the FSDP 2 engine
of every device that verl supports.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDict
from torch import nn
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from antiphase.devices import return_freed_memory
from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_reward import InversionReward
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.models.whole_weights import whole_weights
from antiphase.verl.fact_columns import num_columns, to_columns

# The field of verl's batch that holds the facts of each rollout.
FACTS = "inversion_facts"
_OF_ACTOR = make_nd_compute_dataproto_dispatch_fn(mesh_name="actor")


def measured_facts(reward: InversionReward, policy: nn.Module, tokenizer: Any, data: TensorDict) -> torch.Tensor:
    """Measure the inversion of the rollouts of one process.

    Args:
        reward: the inversion reward.
        policy: the policy with all its weights.
        tokenizer: the policy's tokenizer.
        data: verl's batch, with the nested tensors `prompts`, `responses` and `response_mask`. The mask is 0 for
            tokens that the model did not write.

    Returns:
        The facts as `to_columns` returns them. Rows in which the model wrote no token are NaN.
    """
    prompts, responses, marks = (
        [row.tolist() for row in data[name].unbind()] for name in ("prompts", "responses", "response_mask")
    )
    written = [row for row, generated in enumerate(marks) if any(generated)]
    facts = torch.full((len(marks), num_columns()), torch.nan, dtype=torch.float64)
    if written:
        chosen = RolloutIds(*([column[row] for row in written] for column in (prompts, responses, marks)))
        facts[written] = to_columns(reward.measure(policy, chosen, tokenizer))
    return facts


class InversionTrainingWorker(TrainingWorker):  # type: ignore[misc]
    """The part of the actor's process that holds the engine. It can measure the inversion."""

    inversion: InversionReward | None = None

    def set_inversion(self, spec: InversionSpec) -> None:
        """Store the options of the inversion, and measure one token as a trial.

        Raises:
            UnsupportedModelError: the estimator cannot measure the model.
            InvalidInputError: the options name a layer that the model does not have.
        """
        self.inversion = InversionReward(spec)
        with self._policy() as policy:
            self.inversion.check(policy, self.model_config.tokenizer)

    def measure_inversion(self, data: TensorDict) -> TensorDict:
        """Measure the inversion of this process's rollouts with the current policy; see `measured_facts`."""
        if self.inversion is None:
            raise InvalidInputError("the worker was asked to measure the inversion before it got the options.")
        with self._policy() as policy:
            facts = measured_facts(self.inversion, policy, self.model_config.tokenizer, data)
            device = next(policy.parameters()).device
        return_freed_memory(device)
        return TensorDict({FACTS: facts}, batch_size=[len(facts)])

    @contextlib.contextmanager
    def _policy(self) -> Iterator[nn.Module]:
        """Yield the engine's module with all its weights on the device."""
        with self.engine.eval_mode(), whole_weights(self.engine.module):
            yield self.engine.module


class InversionWorker(ActorRolloutRefWorker):  # type: ignore[misc]
    """verl's worker for actor, rollout and reference, with an actor that also measures the inversion."""

    actor_worker_cls = InversionTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def set_inversion(self, spec: InversionSpec) -> None:
        """Give the options of the inversion to the actor; see `InversionTrainingWorker.set_inversion`."""
        self.actor.set_inversion(spec)

    @register(dispatch_mode=_OF_ACTOR)  # type: ignore[untyped-decorator]
    def compute_inversion(self, data: TensorDict) -> TensorDict:
        """Measure the inversion of this process's rollouts, and return their facts in the field `FACTS`."""
        return self.actor.measure_inversion(data)
