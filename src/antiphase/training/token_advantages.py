"""Advantages of single tokens: GTPO's entropy-weighted rewards (arXiv 2508.04349).

TRL's loss takes an advantage for each rollout, or one for each token. `gtpo_advantages` is a pure function.
`token_advantages` calls it for a batch that TRL has generated and scored.
"""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from trl.models.utils import disable_gradient_checkpointing

from antiphase.training.advantage_term import trained_tokens

TokenAdvantages = Literal["none", "gtpo"]
TOKEN_ADVANTAGES: tuple[TokenAdvantages, ...] = get_args(TokenAdvantages)
# α₂, the weight of the entropy's share; α₁ is 1.
SHARE = 0.1
# TRL adds the same number to the standard deviation of a group.
EPSILON = 1e-4
# Keeps the quotients of entropies finite.
TINY = 1e-8


def gtpo_advantages(
    rewards: Float[Tensor, "rollout"],
    right: Bool[Tensor, "rollout"],
    entropy: Float[Tensor, "rollout token"],
    mask: Bool[Tensor, "rollout token"],
    *,
    group_size: int,
    share: float = SHARE,
) -> Float[Tensor, "rollout token"]:
    """Return GTPO's advantage of every token.

    The right and the wrong rollouts of a group are treated separately. Let r_i be the reward of rollout i, H_it its
    entropy at position t, and α₂ a weight. In a right rollout i, the token at position t has the reward

        r̃_it = r_i + α₂ · d_t · H_it / Σ_k H_kt

    Here d_t is the number of right rollouts of the group that have a token at position t. The sum over k runs over
    these rollouts. In a wrong rollout j, the token at position t has the reward

        r̃_jt = r_j − α₂ · h_t · (1/H_jt) / Σ_k (1/H_kt)

    Here h_t is the number of wrong rollouts of the group that have a token at position t. The sum over k runs over
    these rollouts. So in wrong rollouts, the tokens of low entropy lose most.

    The advantages are the rewards r̃ minus their mean, divided by their standard deviation. For right rollouts, mean
    and deviation are taken over all tokens of the group's right rollouts. For wrong rollouts, they are taken over all
    tokens of the group's wrong rollouts. So the mean advantage is 0 among the right rollouts, and also among the wrong
    rollouts. GTPO therefore does not prefer right rollouts to wrong rollouts. It only distinguishes tokens among the
    right rollouts, and tokens among the wrong rollouts.

    Our reading: we have not read the paper's own text. The formulas are those of two public re-implementations, which
    agree. They multiply r_i by a weight α₁ = 1, and have α₂ = 0.1.

    Args:
        rewards: r_i, the reward of each rollout. It is 1 for a right rollout and −1 for a wrong one, as in the paper,
            plus λ times the rollout's term of inversion. A rollout with a reward of NaN is left out.
        right: which rollouts the verifier accepts.
        entropy: the entropy at each token, in nats.
        mask: which tokens are trained on.
        group_size: number of rollouts of each prompt.
        share: the weight α₂.

    Returns:
        float64 advantages; 0 for tokens that are not trained on.
    """
    size = (-1, group_size, entropy.shape[1])
    used = mask & ~rewards.isnan()[:, None]
    base = rewards.nan_to_num().double()[:, None].expand(entropy.shape)
    entropy = entropy.double().clamp(min=0)
    result = torch.zeros_like(entropy)
    for weight, sign, chosen in (
        (entropy, 1.0, used & right[:, None]),
        (1 / (entropy + TINY), -1.0, used & ~right[:, None]),
    ):
        kept, own = chosen.view(size), (weight * chosen).view(size)
        parts = own / own.sum(1, keepdim=True).clamp(min=TINY) * kept.sum(1, keepdim=True)
        shaped = (base.reshape(size) + sign * share * parts) * kept
        count = kept.sum((1, 2), keepdim=True).clamp(min=1)
        centred = (shaped - shaped.sum((1, 2), keepdim=True) / count) * kept
        deviation = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
        result += (centred / (deviation + EPSILON)).reshape(entropy.shape)
    return result


def token_advantages(
    trainer: Any, output: dict[str, Any], rewards: Tensor, right: Tensor, group_size: int
) -> tuple[Tensor, Tensor]:
    """Compute GTPO's advantages for a batch that TRL has generated and scored.

    Args:
        trainer: the trainer, whose policy has generated the batch.
        output: what TRL's `_generate_and_score_completions` returned.
        rewards: the reward of each rollout of all processes; NaN leaves a rollout out.
        right: which of these rollouts the verifier accepts.
        group_size: number of rollouts of each prompt.

    Returns:
        the advantages `[rollout, token]` of the rollouts of this process, and the mean advantage `[rollout]` of each
        rollout of all processes.
    """
    mask = trained_tokens(output)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    width, args = output["completion_ids"].shape[1], trainer.args
    rows = args.per_device_train_batch_size if trainer.model.training else args.per_device_eval_batch_size
    with torch.no_grad(), disable_gradient_checkpointing(trainer.model, args.gradient_checkpointing_kwargs):
        _, entropy, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, attention, width, batch_size=rows, compute_entropy=True
        )
    state = trainer.accelerator
    # The rollouts of a group may be on several processes, whose batches have different widths.
    entropies, masks = (
        state.gather(state.pad_across_processes(values.contiguous(), dim=1)).cpu()
        for values in (entropy.float(), mask)
    )
    advantages = gtpo_advantages(rewards.cpu(), right.cpu(), entropies, masks.bool(), group_size=group_size)
    first = state.process_index * len(mask)
    means = advantages.sum(1) / masks.sum(1).clamp(min=1)
    return advantages[first : first + len(mask), :width].to(output["advantages"]), means
