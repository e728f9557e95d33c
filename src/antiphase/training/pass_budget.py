"""Limits the tokens of a measuring pass in a training, so that the pass needs no more memory than the update.

A measuring pass is one forward and backward pass that measures inversion. With the estimator `own`, it keeps the
activations of its tokens. The update keeps the activations of a micro-batch, and also holds the gradients of the
weights. So a measuring pass with at most the tokens of a micro-batch does not raise the training's peak of memory.

With gradient checkpointing, the update keeps less: the input of each layer, and the activations of one layer at a
time. A measuring pass then gets fewer tokens, so that it needs about as much memory as the update.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from antiphase.inversion.inversion_reward import InversionReward
from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.models.architecture import find_layers, unwrap

# The activations that a layer keeps for the backward pass, relative to its input. A layer of Llama keeps about 16
# vectors of that size: the inputs of its norms, projections and attention, and the wide vectors of its MLP.
_OF_A_LAYER = 16
# Shorter passes take much more time for a token.
_LEAST = 256


def within_update(reward: InversionReward, rollouts: RolloutIds, model: nn.Module, args: Any) -> InversionReward:
    """Return a copy of the inversion reward whose measuring passes need no more memory than an update.

    Args:
        reward: the inversion reward. The copy's token budget is at most the budget of this reward.
        rollouts: the rollouts of this process.
        model: the policy.
        args: the trainer's arguments.
    """
    found = tokens_of_update(
        rollouts, args.per_device_train_batch_size, model, checkpointing=bool(args.gradient_checkpointing)
    )
    return replace(reward, spec=replace(reward.spec, token_budget=min(reward.spec.token_budget, found)))


def tokens_of_update(rollouts: RolloutIds, rows: int, model: nn.Module, *, checkpointing: bool) -> int:
    """Return how many tokens a measuring pass can have in the memory that an update needs for its activations.

    Args:
        rollouts: the rollouts of this process. TRL pads prompts and completions to the longest of them.
        rows: the number of rollouts in a micro-batch.
        model: the policy.
        checkpointing: whether the update uses gradient checkpointing.

    >>> rollouts = RolloutIds([[1] * 100], [[1] * 400])
    >>> tokens_of_update(rollouts, 4, nn.Module(), checkpointing=False)
    2000
    """
    tokens = rows * (max(map(len, rollouts.prompt_ids)) + max(map(len, rollouts.completion_ids)))
    if checkpointing:
        layers = find_layers(unwrap(model)).num_layers
        tokens = int(tokens * (1 / _OF_A_LAYER + 1 / layers))
    return max(tokens, _LEAST)
