"""`InversionReward`: the part of training with inversion that every training engine needs. It is no engine itself.

It takes sampled rollouts and task rewards, and returns rewards, the term of the advantage and metrics. An engine calls
`measure` after it has sampled and before it updates, and `combine` once it has the task rewards. Generation, the
normalisation of groups and the loss are the engine's own. `CorRPOTrainer` joins it to TRL.
"""

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import InversionSpec
from antiphase.inversion.rollout_facts import RolloutFacts, RolloutIds
from antiphase.inversion.step_metrics import step_metrics
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
    """The numbers that an engine trains on and logs, for all rollouts of a step.

    Args:
        reward: R_i, the task reward and the term. It is NaN where the rollout has no task reward and must be left out.
        advantage: a number to add to the advantage that the engine makes of `reward`; 0 except under `centered`.
        term: both terms per unit of λ.
        excluded: whether the rollout has no task reward.
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

    With several processes, each measures its own rollouts. The facts are then gathered, and every process combines
    those of all rollouts:

        facts = reward.measure(model, batch, tokenizer).gathered(all_gather)
        combined = reward.combine(facts, all_gather(task_rewards), group_size=8)

    Args:
        spec: the options of the reward.
        tags: what opens and what closes a thought, where `spec.segment` asks for the thought or the answer alone.
    """

    spec: InversionSpec = field(default_factory=InversionSpec)
    tags: tuple[tuple[str, str], ...] = TAGS

    def check(self, model: nn.Module, tokenizer: Any) -> None:
        """Measure one token, so that a model that cannot be measured is refused before anything long starts.

        Raises:
            UnsupportedModelError: the estimator cannot measure the model.
            InvalidInputError: a layer does not exist.
        """
        self.check_layers(model)
        row = trial_batch(unwrap(model))
        steps = batch_steps(row, tokenizer, self.spec.step_splitter())
        token_signals(model, row, self.spec.signal_spec(), steps=steps)

    def check_layers(self, model: nn.Module) -> None:
        """The part of `check` that reads no weights, for models whose weights are elsewhere; with the same errors."""
        chosen_layers(unwrap(model), self.spec.signal_spec())

    def measure(
        self,
        model: nn.Module,
        rollouts: TokenBatch | RolloutIds,
        tokenizer: Any,
        *,
        end_ids: Collection[int | None] | None = None,
    ) -> RolloutFacts:
        """Measure rollouts by the policy that is trained. The result is detached, and the policy is left as it was.

        Args:
            model: the policy, with all its parameters and outside autocast, in any mode.
            rollouts: the rollouts as they were sampled. A `TokenBatch` must fit the model's context. Of `RolloutIds`,
                tokens beyond the context are not measured.
            tokenizer: decodes the rollouts, to find where their steps and their thoughts end.
            end_ids: tokens that end a completion; by default those of the model and the tokenizer.

        Raises:
            UnsupportedModelError: the estimator cannot measure the model.
            InvalidInputError: the model does not have a token id, or the batch does not fit its context.
            NonFiniteError: logits or gradients are NaN or infinite.
            OutOfMemoryError: memory runs out; lower `token_budget`.
        """
        start = time.perf_counter()
        if isinstance(rollouts, TokenBatch):
            batch, ids = rollouts, RolloutIds.of(rollouts)
        else:
            batch, ids = rollouts.within(_context(model)), rollouts
        batch = self.measured(batch, tokenizer)
        steps = batch_steps(batch, tokenizer, self.spec.step_splitter())
        signals = token_signals(model, batch, self.spec.signal_spec(), steps=steps)
        if end_ids is None:
            own = end_tokens(LoadedModel("policy", model, tokenizer, None))
            end_ids = {*own, tokenizer.eos_token_id, tokenizer.pad_token_id}
        scores = rollout_scores(signals, batch, self.spec.score_spec())
        return RolloutFacts.of(scores, ids, end_ids=end_ids, seconds=time.perf_counter() - start)

    def measured(self, batch: TokenBatch, tokenizer: Any) -> TokenBatch:
        """Return the batch with only the tokens of `spec.segment` to measure; it is unchanged for `all`.

        Args:
            batch: the rollouts.
            tokenizer: decodes the rollouts, to find where their thoughts end.
        """
        return measured_batch(batch, tokenizer, cast(Segment, self.spec.segment), self.tags)

    def facts(
        self, signals: TokenSignals, batch: TokenBatch, *, end_ids: Collection[int | None], seconds: float = math.nan
    ) -> RolloutFacts:
        """The facts of rollouts that were measured elsewhere, by the options that `spec.signal_spec()` holds.

        Args:
            signals: the signals of the tokens that `measured` keeps; where steps are the unit, with the steps of that
                batch (see `token_signals`).
            batch: the whole rollouts.
            end_ids: tokens that end a completion.
            seconds: time that was spent measuring.

        Raises:
            InvalidInputError: steps are the unit, and the signals have no steps.
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
    ) -> CombinedRewards:
        """The rewards of a step, by the formula of `inversion_term`, and the step's metrics.

        Args:
            facts: the facts of the rollouts of all processes, one group after another.
            task_rewards: the task reward of each rollout in `facts`, in the same order; NaN where a rollout has none.
            group_size: number of rollouts of each prompt.
            weight: λ at this step, such as `spec.weight_at(step, num_steps)`; by default `spec.weight`.
            accepted: whether a verifier accepts each rollout, such as `spec.accepts(task_rewards)`; None where there
                is no verifier.

        Returns:
            rewards, advantages and metrics; the tensors are float64 and on the CPU.

        Raises:
            InvalidInputError: the numbers of rollouts do not fit together, or `gated` has no verifier.
        """
        spec, inversion = self.spec, facts.scores.inversion
        self._check(facts, task_rewards, group_size, accepted)
        weight = spec.weight if weight is None else weight
        task = task_rewards.detach().cpu().double()
        right = torch.zeros_like(task, dtype=torch.bool) if accepted is None else accepted.cpu()
        # Engines leave out rollouts without a task reward. The term must not bring them back.
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
        metrics = step_metrics(
            facts.with_task(task, right), group_size=group_size, weight=weight, seconds=float(facts.seconds.max())
        )
        if accepted is None:
            metrics |= dict.fromkeys(_OF_A_VERIFIER, math.nan)
        if spec.signal_spec().targets_per_rollout == 0:
            # The options say that no token's own strength is measured. NaN would look like a failure.
            for unit in ("token", "type"):
                del metrics[f"inversion/correlation_{unit}"]
        base = torch.zeros_like(task) if spec.combine == "only" else task
        return CombinedRewards(base + weight * term.reward, term.advantage * weight, term, excluded, metrics)

    def _check(self, facts: RolloutFacts, task_rewards: Tensor, group_size: int, accepted: Tensor | None) -> None:
        sizes = {"facts": len(facts), "task_rewards": len(task_rewards)}
        sizes |= {} if accepted is None else {"accepted": len(accepted)}
        if len(set(sizes.values())) != 1:
            shown = ", ".join(f"{name} of {size}" for name, size in sizes.items())
            raise InvalidInputError(
                f"combine needs one of each for every rollout; got {shown}. Gather them all over the processes, or "
                "none."
            )
        if group_size < 1 or len(facts) % group_size:
            raise InvalidInputError(
                f"{len(facts)} rollouts are no whole groups of {group_size}; give all rollouts of each prompt, one "
                "prompt after another."
            )
        if accepted is None and self.spec.combine == "gated":
            raise InvalidInputError(
                "inversion_combine='gated' needs a verifier: say which rollouts are right (accepted=)."
            )


def _context(model: nn.Module) -> int | None:
    limit = getattr(cast(Any, unwrap(model)).config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)
