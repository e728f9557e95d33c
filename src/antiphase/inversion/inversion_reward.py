"""`InversionReward`: measures the inversion of rollouts and adds it to the task rewards, for any training engine.

An engine calls `measure` after it has sampled rollouts and before it updates the model. It calls `combine` once it has
the task rewards, and gets rewards, a term for the advantage, and metrics. The engine itself generates rollouts,
normalises groups and computes the loss. `CorRPOTrainer` connects this class to TRL.
"""

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from antiphase.errors import InvalidInputError, NonFiniteError, UnsupportedModelError
from antiphase.inversion.equal_rollouts import chosen_rows, first_of_equals, spread_rows
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.inversion.rollout_facts import RolloutFacts, RolloutIds
from antiphase.inversion.step_metrics import step_metrics, tied_groups
from antiphase.inversion.token_facts import TokenFacts
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel
from antiphase.reward import Combine, InversionTerm, Undefined, inversion_term
from antiphase.rollouts.sampling import end_tokens
from antiphase.scores import rollout_scores
from antiphase.signal_spec import Segment
from antiphase.signals.measure import chosen_layers, token_signals, trial_batch
from antiphase.steps.assigning import batch_steps
from antiphase.steps.segments import measured_batch
from antiphase.steps.thoughts import TAGS
from antiphase.types import TokenBatch, TokenSignals

_OF_A_VERIFIER = ("task/accuracy", "inversion/top_accuracy", "inversion/bottom_accuracy")


@dataclass(frozen=True)
class CombinedRewards:
    """The numbers that a training engine trains on and logs, for all rollouts of a training step.

    Args:
        reward: R_i, the task reward plus the inversion term. It is NaN for a rollout without a task reward. The engine
            must leave such a rollout out.
        advantage: a number to add to the advantage that the engine computes from `reward`. It is 0 unless the option
            `combine` is `centered`.
        term: what inversion adds to reward and advantage, before the multiplication by the weight λ.
        excluded: whether the engine must leave the rollout out, because it has no task reward.
        metrics: the metrics that docs/metrics.md lists; NaN where undefined.
    """

    reward: Float[Tensor, "rollout"]
    advantage: Float[Tensor, "rollout"]
    term: InversionTerm
    excluded: Bool[Tensor, "rollout"]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class InversionReward:
    """The inversion of rollouts as a reward.

    Each process measures its own rollouts, which gives facts: some numbers for each rollout. Then the facts of all
    processes are gathered, and every process combines the facts of all rollouts with the task rewards:

        facts = reward.measure(model, batch, tokenizer).gathered(all_gather)
        combined = reward.combine(facts, all_gather(task_rewards), group_size=8)

    Args:
        spec: the options of the reward.
        tags: pairs of the tag that opens a thought and the tag that closes it. They are used if `spec.segment` is the
            thought or the answer.
    """

    spec: InversionSpec = field(default_factory=InversionSpec)
    tags: tuple[tuple[str, str], ...] = TAGS

    def check(self, model: nn.Module, tokenizer: Any) -> None:
        """Measure one token, so that an unsuitable model is refused at once and not after a long generation.

        Args:
            model: the policy.
            tokenizer: the model's tokenizer.

        Raises:
            UnsupportedModelError: the estimator cannot measure the model.
            InvalidInputError: the options name a layer that the model does not have.
        """
        self.check_layers(model)
        row = trial_batch(unwrap(model))
        steps = batch_steps(row, tokenizer, self.spec.step_splitter())
        token_signals(model, row, self.spec.signal_spec(), steps=steps)

    def check_layers(self, model: nn.Module) -> None:
        """Check that the layers that the options name exist and can be measured. No weights of the model are read.

        `check` also measures a token. This method is for a process that does not hold the model's weights.

        Raises:
            UnsupportedModelError: antiphase does not know the model's attention projections.
            InvalidInputError: the options name a layer that the model does not have.
        """
        chosen_layers(unwrap(model), self.spec.signal_spec())

    def measure(
        self,
        model: nn.Module,
        rollouts: TokenBatch | RolloutIds,
        tokenizer: Any,
        *,
        end_ids: Collection[int | None] | None = None,
        by_token: bool = False,
    ) -> RolloutFacts:
        """Measure rollouts with the policy that is being trained, and return facts: some numbers for each rollout.

        The result carries no gradient, and the policy is left as it was. Equal rollouts are measured once.

        Args:
            model: the policy, in training or evaluation mode. All its parameters must be in this process, and the call
                must not be inside autocast.
            rollouts: the rollouts as they were sampled. A `TokenBatch` must fit into the model's context. If
                `RolloutIds` are longer than the context, their last tokens are not measured.
            tokenizer: the model's tokenizer. It decodes the rollouts, to find where their steps (sentences) and their
                thoughts end.
            end_ids: tokens that end a completion; by default those of the model and the tokenizer.
            by_token: whether the facts also hold the signals of each token, as `tokens`.

        Raises:
            UnsupportedModelError: the estimator cannot measure the model.
            InvalidInputError: a token id is not in the model's vocabulary, or the batch does not fit into its context.
            NonFiniteError: logits or gradients are NaN or infinite.
            OutOfMemoryError: memory runs out; lower `token_budget`.
        """
        start = time.perf_counter()
        if isinstance(rollouts, TokenBatch):
            batch, ids = rollouts, RolloutIds.of(rollouts)
        else:
            batch, ids = rollouts.within(_context(model)), rollouts
        batch = self.measured(batch, tokenizer)
        signals, steps = self._signals(model, batch, tokenizer)
        if end_ids is None:
            end_ids = {*end_tokens(LoadedModel("policy", model, tokenizer, None)), tokenizer.pad_token_id}
        scores = rollout_scores(signals, batch, self.spec.score_spec())
        facts = RolloutFacts.of(scores, ids, end_ids=end_ids, seconds=time.perf_counter() - start)
        return replace(facts, tokens=TokenFacts.of(signals, batch, steps)) if by_token else facts

    def _signals(self, model: nn.Module, batch: TokenBatch, tokenizer: Any) -> tuple[TokenSignals, Tensor]:
        """Measure a batch, and return (the signals, the step (sentence) of each token, `[batch, token]`).

        Equal rollouts are measured only once.
        """
        spec, steps = self.spec.signal_spec(), batch_steps(batch, tokenizer, self.spec.step_splitter())
        first = first_of_equals(batch)
        different = sorted(set(first))
        if len(different) == len(first):
            return token_signals(model, batch, spec, steps=steps), steps
        try:
            signals = token_signals(model, chosen_rows(batch, different), spec, steps=steps[different])
        except (InvalidInputError, NonFiniteError, UnsupportedModelError):
            # The message of the error names a row, which must be a row of the whole batch.
            token_signals(model, batch, spec, steps=steps)
            raise
        place = {row: index for index, row in enumerate(different)}
        return spread_rows(signals, [place[row] for row in first]), steps

    def measured(self, batch: TokenBatch, tokenizer: Any) -> TokenBatch:
        """Return the batch with a completion mask that is True only at the tokens to be measured.

        These are the tokens of the thought, of the answer or of both, as the option `spec.segment` says.

        Args:
            batch: the rollouts.
            tokenizer: decodes the rollouts, to find where their thoughts end.
        """
        return measured_batch(batch, tokenizer, cast(Segment, self.spec.segment), self.tags)

    def facts(
        self, signals: TokenSignals, batch: TokenBatch, *, end_ids: Collection[int | None], seconds: float = math.nan
    ) -> RolloutFacts:
        """Compute the facts (some numbers for each rollout) from signals that the caller has measured.

        The signals must have been measured with the options `spec.signal_spec()`.

        Args:
            signals: the signals of the batch that `measured` returns. If `spec.unit` is `step`, they must also contain
                the signals of the steps of that batch; see `token_signals`.
            batch: the whole rollouts.
            end_ids: tokens that end a completion.
            seconds: time that was spent on measuring.

        Raises:
            InvalidInputError: `spec.unit` is `step`, and the signals contain no steps.
        """
        scores = rollout_scores(signals, batch, self.spec.score_spec())
        return RolloutFacts.of(scores, RolloutIds.of(batch), end_ids=end_ids, seconds=seconds)

    def combine(
        self,
        facts: RolloutFacts,
        task_rewards: Float[Tensor, "rollout"],
        *,
        group_size: int,
        weight: float | None = None,
        accepted: Bool[Tensor, "rollout"] | None = None,
        judged: Bool[Tensor, "rollout"] | None = None,
    ) -> CombinedRewards:
        """Combine task rewards and inversion by the formula of `inversion_term`, and compute the batch's metrics.

        If `spec.tied` is `skip`, inversion adds nothing in groups whose task rewards are all equal.

        Args:
            facts: the facts of the rollouts of all processes, as `measure` returns them. The rollouts of one prompt
                form a group, and stand next to one another.
            task_rewards: the task reward of each rollout, in the same order; NaN for a rollout without one.
            group_size: number of rollouts of each prompt.
            weight: λ at this training step, such as `spec.weight_at(step, num_steps)`; by default `spec.weight`.
            accepted: whether the verifier accepts each rollout, such as `spec.accepts(task_rewards)`; None if there is
                no verifier.
            judged: whether the verifier gave a number for each rollout; by default, whether the rollout has a task
                reward. The accuracies in the metrics are over these rollouts. A rollout that was not judged is not
                accepted.

        Returns:
            The rewards, the terms to add to the advantages, and the metrics. The tensors are float64 and on the CPU.

        Raises:
            InvalidInputError: the numbers of rollouts do not fit together, or the option `combine` is `gated` without
                a verifier.
        """
        spec, inversion = self.spec, facts.scores.inversion
        self._check(facts, task_rewards, group_size, accepted, judged)
        weight = spec.weight if weight is None else weight
        task = task_rewards.detach().cpu().double()
        right = torch.zeros_like(task, dtype=torch.bool) if accepted is None else accepted.cpu()
        # Engines leave out rollouts whose reward is NaN, so these rollouts must not influence others either.
        excluded = task.isnan() & (spec.combine != "only")
        term = inversion_term(
            inversion.masked_fill(excluded, torch.nan),
            task.nan_to_num(nan=-torch.inf),
            right,
            group_size=group_size,
            combine=cast(Combine, spec.combine),
            weight=weight,
            clip=spec.clip,
            undefined=cast(Undefined, spec.undefined),
            excluded=excluded,
        )
        if spec.tied == "skip":
            tied = tied_groups(task, group_size).repeat_interleave(group_size)
            term = InversionTerm(term.reward.masked_fill(tied, 0.0), term.advantage.masked_fill(tied, 0.0))
        seen = ~task.isnan() if judged is None else judged.cpu()
        metrics = step_metrics(facts, task, right, judged=seen, group_size=group_size, weight=weight)
        if accepted is None:
            metrics |= dict.fromkeys(_OF_A_VERIFIER, math.nan)
        if spec.signal_spec().targets_per_rollout == 0:
            # With these options the strength of single tokens is not measured. NaN would look like a failure.
            for unit in ("token", "type"):
                del metrics[f"inversion/correlation_{unit}"]
        base = torch.zeros_like(task) if spec.combine == "only" else task
        return CombinedRewards(base + weight * term.reward, term.advantage * weight, term, excluded, metrics)

    def _check(
        self,
        facts: RolloutFacts,
        task_rewards: Tensor,
        group_size: int,
        accepted: Tensor | None,
        judged: Tensor | None,
    ) -> None:
        """Raise InvalidInputError if the arguments of `combine` do not fit together."""
        sizes = {"facts": len(facts), "task_rewards": len(task_rewards)}
        flags = {"accepted": accepted, "judged": judged}
        sizes |= {name: len(values) for name, values in flags.items() if values is not None}
        if len(set(sizes.values())) != 1:
            shown = ", ".join(f"{name} of {size}" for name, size in sizes.items())
            raise InvalidInputError(
                f"the arguments of combine must be of equally many rollouts; got {shown} rollouts. If there are "
                "several processes, gather either all of these arguments from all processes, or none of them."
            )
        if group_size < 1 or len(facts) % group_size:
            raise InvalidInputError(
                f"{len(facts)} rollouts cannot be divided into groups of {group_size}. Give all rollouts of each "
                "prompt, one prompt after another."
            )
        if accepted is None and self.spec.combine == "gated":
            raise InvalidInputError(
                "inversion_combine='gated' needs a verifier. Pass accepted=, which says which rollouts are right."
            )


def _context(model: nn.Module) -> int | None:
    """Return the length of the model's context in tokens; None if its config does not say it."""
    limit = getattr(cast(Any, unwrap(model)).config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)
