"""`SharingTrainer`: TRL's `GRPOTrainer` whose old log-probabilities can come from the measurement of inversion.

If several updates use one generation batch (`num_iterations` above 1, or fewer accumulated batches than
`steps_per_generation`), TRL runs a forward pass over the batch before the first update. This pass gives the
log-probability of every token under the policy that sampled it. The measurement of inversion has computed the same
log-probabilities. With `share_logprobs`, TRL gets them from the measurement, and does not run its forward pass.

TRL's and the measured log-probabilities differ only by rounding, since the measurement runs the rollouts with other
padding and another attention implementation. Where they could differ more (autocast, 16-bit weights, dropout, a
temperature other than 1), the option is refused.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from antiphase.errors import InvalidInputError
from antiphase.inversion.rollout_facts import RolloutFacts, RolloutIds
from antiphase.models.architecture import unwrap
from antiphase.models.quantization import quantization_of
from antiphase.training.host import HostError
from antiphase.training.policy import is_sharded
from antiphase.training.resampling import ResamplingTrainer

# The names under which configurations of mixtures of experts say how many experts a layer has.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def needs_old_logprobs(args: Any) -> bool:
    """Return whether TRL computes the log-probabilities of the sampling policy for every generation batch.

    The condition is copied from TRL's `_generate_and_score_completions`. If TRL behaves otherwise, `SharingTrainer`
    raises an error at the first batch.

    Args:
        args: the trainer's arguments.
    """
    generate_every = args.steps_per_generation * args.num_iterations
    corrected = args.use_vllm and args.vllm_importance_sampling_correction
    return bool(args.gradient_accumulation_steps % generate_every != 0 or corrected)


def check_shared(trainer: Any) -> None:
    """Raise InvalidInputError unless the measured log-probabilities can replace TRL's; see `share_logprobs`.

    The option is refused if TRL computes no old log-probabilities. It is also refused if TRL's log-probabilities may
    differ from the measured log-probabilities by more than rounding.

    Args:
        trainer: the `CorRPOTrainer`, after TRL has built it.
    """
    reason = _reason(trainer)
    if reason is not None:
        raise InvalidInputError(f"share_logprobs does not go with this training: {reason} Leave share_logprobs out.")


def _reason(trainer: Any) -> str | None:
    """Return a sentence that says why the measured log-probabilities cannot replace TRL's; None if they can."""
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    plugin = trainer.accelerator.state.dynamo_plugin
    reasons = {
        "TRL computes no old log-probabilities, because every generation batch is used in one update.": (
            not needs_old_logprobs(args)
        ),
        "TRL compares the old log-probabilities with those of vLLM.": args.use_vllm,
        "the measurement is at temperature 1.": trainer.temperature != 1.0,
        "only a segment of each rollout is measured.": args.inversion_segment != "all",
        "TRL's forward pass runs under autocast, and the measurement does not.": (
            trainer.accelerator.mixed_precision != "no"
        ),
        "TRL's forward pass is compiled, and the measurement is not.": str(plugin.backend.value).upper() != "NO",
        "TRL's forward pass uses Liger's kernels.": args.use_liger_kernel,
        "the weights are spread over processes.": is_sharded(trainer.accelerator),
        "the weights are quantised.": quantization_of(cast(Any, unwrap(model)).config) is not None,
        "the weights are not float32, so the two would not differ by float32 rounding alone.": any(
            parameter.dtype != torch.float32 for parameter in model.parameters()
        ),
        "the model has dropout, which is on in TRL's forward pass; disable_dropout would switch it off.": (
            _has_dropout(model)
        ),
        "the model is a mixture of experts, and rounding can change the chosen experts.": _has_experts(model),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _has_dropout(model: nn.Module) -> bool:
    """Return whether dropout in training mode changes the outputs of the model.

    Some modules are `nn.Dropout`. Others keep a probability as an attribute, such as `attention_dropout`.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            if module.p > 0:
                return True
            continue
        numbers = (value for name, value in vars(module).items() if "drop" in name and isinstance(value, float))
        if any(value > 0 for value in numbers):
            return True
    return False


def _has_experts(model: nn.Module) -> bool:
    config = cast(Any, unwrap(model)).config.get_text_config()
    return any(getattr(config, name, None) for name in _EXPERTS)


def old_logprobs(
    facts: RolloutFacts, rollouts: RolloutIds, shape: Sequence[int]
) -> Float[Tensor, "rollout token"] | None:
    """Return the measured log-probabilities as TRL stores them: one row for each completion, padded on the right.

    Args:
        facts: what was measured on the rollouts, with the signals of their tokens.
        rollouts: the token ids of the rollouts.
        shape: the shape of the result: number of rollouts, and greatest number of tokens of a completion.

    Returns:
        float32 log-probabilities in nats on the CPU, 0 at padding. None if a token was not measured, such as a token
        of a tool or one beyond the model's context.
    """
    assert facts.tokens is not None
    found = torch.zeros(*shape, dtype=torch.float32)
    for row, (prompt, completion) in enumerate(zip(rollouts.prompt_ids, rollouts.completion_ids, strict=True)):
        start = int(facts.tokens.first[row]) + len(prompt)
        values = facts.tokens.logprob[row, start : start + len(completion)]
        if len(values) < len(completion) or bool(values.isnan().any()):
            return None
        found[row, : len(completion)] = values
    return found


class SharingTrainer(ResamplingTrainer):
    """TRL's `GRPOTrainer` that measures each batch once, and can give the measured log-probabilities to TRL."""

    _rollouts: RolloutIds | None = None
    _measured: RolloutFacts | None = None
    # Whether TRL's next request for log-probabilities is for those of the sampling policy, which are shared.
    _awaited = False

    def _measure(self, rollouts: RolloutIds) -> RolloutFacts:
        """Measure the rollouts of a batch, and return what was measured. A subclass defines this method."""
        raise NotImplementedError

    def _measured_batch(self) -> RolloutFacts:
        """Return what was measured on the present batch. The first call for a batch measures it."""
        if self._measured is None:
            if self._rollouts is None:
                raise HostError("TRL asked for the inversion of a batch that it has not generated.")
            with self.clock.part("measuring"), torch.enable_grad():
                self._measured = self._measure(self._rollouts)
        return self._measured

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._awaited = bool(cast(Any, self.args).share_logprobs)
        output = super()._generate_and_score_completions(inputs)
        if self._awaited or (cast(Any, self.args).share_logprobs and "old_per_token_logps" not in output):
            raise HostError("TRL did not ask for old log-probabilities, so share_logprobs would have had no effect.")
        return output

    def _generate(self, prompts: Any) -> Any:
        self._measured = None
        output = super()._generate(prompts)
        # The first three items: unpadded prompt ids, completion ids, and a mask of the tokens that the model wrote.
        self._rollouts = RolloutIds(*output[:3])
        return output

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if self._awaited:
            self._awaited = False
            found = self._shared(*args)
            if found is not None:
                return found, None, None
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _shared(self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int) -> Tensor | None:
        """Return the measured log-probabilities on TRL's device; None if a token was not measured.

        If the result is None, TRL computes all log-probabilities itself.
        """
        if model is not self.model or self._rollouts is None or len(input_ids) != len(self._rollouts.completion_ids):
            raise HostError("TRL asked for old log-probabilities of another model or batch. Set share_logprobs=False.")
        found = old_logprobs(self._measured_batch(), self._rollouts, (len(input_ids), logits_to_keep))
        return None if found is None else found.to(input_ids.device)
