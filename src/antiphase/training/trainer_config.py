"""The class `CorRPOConfig`: TRL's `GRPOConfig` with the options of the inversion term added.

Most of the added options are those of `InversionSpec`, with its defaults and its checks. The options of GRPO are not
changed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from trl import GRPOConfig

from antiphase.errors import InvalidInputError
from antiphase.inversion.inversion_spec import PREFIX, InversionSpec
from antiphase.score_spec import ScoreSpec
from antiphase.signal_spec import SignalSpec, check_one_of
from antiphase.statistics.minimums import MIN_STEPS
from antiphase.steps import DEFAULT_SPLITTER, Splitter
from antiphase.training.kept_rule import check_count, check_fits, check_keep
from antiphase.training.launch import check_arguments, check_environment_of, check_vllm
from antiphase.training.token_advantages import TOKEN_ADVANTAGES

# The seed is an option of TRL already.
_OPTIONS = tuple(option for option in fields(InversionSpec) if option.name != "seed")


_InversionOptions: Any = make_dataclass(
    "_InversionOptions",
    [(PREFIX + o.name, o.type, field(default=o.default, metadata=o.metadata)) for o in _OPTIONS],
)


@dataclass
class CorRPOConfig(_InversionOptions, GRPOConfig):  # type: ignore[misc]
    """`GRPOConfig` with the fields of CorR-PO added (docs/training.md). The fields of `GRPOConfig` are not changed.

    The defaults give the paper's reward, R = r − λ (1 + ρ): r is the task reward, λ the weight, and ρ the correlation
    of entropy and gradient strength over the steps of a rollout. The default estimator is the fast `own`. The paper's
    full-context gradient is `inversion_estimator="full", inversion_step_strength="joint"`, as in the preset `corr-po`.

    Each option of `InversionSpec` is a field, with `inversion_` before its name: `inversion_weight`,
    `inversion_combine`, … The `seed` is that of `GRPOConfig`.

    Args:
        dynamic_sampling: the greatest number of rounds in which groups with equal task rewards are replaced by groups
            of further prompts (DAPO's dynamic sampling); 0 replaces none.
        token_advantages: `gtpo` computes an advantage for every token from its entropy; see `gtpo_advantages`.
            `none` keeps TRL's advantages, one for each rollout.
        keep_rollouts: number of rollouts of a batch that are kept token by token in the run's folder; 0 keeps none.
            Whole groups are kept if the number is at least `num_generations`. The module `kept_rule` chooses the
            batches.
        share_logprobs: whether the old log-probabilities of the tokens come from the measurement of inversion. TRL
            then needs no forward pass of its own for them. The values differ from TRL's by rounding alone; see
            `shared_logprobs`.

    Raises:
        InvalidInputError: a value is not one of its option's choices, or is outside its range.
    """

    dynamic_sampling: int = field(
        default=0,
        metadata={"help": "most rounds that sample further prompts for groups of tied task rewards (DAPO); 0: none"},
    )
    token_advantages: str = field(
        default="none", metadata={"help": "gtpo: an advantage for every token by its entropy; none: TRL's advantages"}
    )
    keep_rollouts: int = field(
        default=0, metadata={"help": "rollouts of a batch that are kept token by token, in whole groups; 0: none"}
    )
    share_logprobs: bool = field(
        default=False, metadata={"help": "take the old log-probabilities from the measurement, where TRL needs them"}
    )

    def __post_init__(self) -> None:
        # The checks of our own fields come first, since TRL looks for devices, which may take long.
        check_environment_of(self.fsdp, os.environ)
        self.inversion_spec()
        check_one_of("token_advantages", self.token_advantages, TOKEN_ADVANTAGES)
        check_count("dynamic_sampling", self.dynamic_sampling)
        check_keep(self.keep_rollouts)
        if self.restore_callback_states_from_checkpoint:
            raise InvalidInputError(
                "restore_callback_states_from_checkpoint is not supported: CorR-PO restores its own state on resume. "
                "Leave it out."
            )
        super().__post_init__()
        check_arguments(self)
        check_vllm(self)
        check_fits(self.keep_rollouts, self.generation_batch_size)

    def inversion_spec(self) -> InversionSpec:
        """Return the options of the inversion reward, after checking them."""
        return InversionSpec(**{o.name: getattr(self, PREFIX + o.name) for o in _OPTIONS}, seed=self.seed)

    def score_spec(self) -> ScoreSpec:
        """Return the options that say how the scores of a rollout are computed from its signals."""
        return self.inversion_spec().score_spec()

    def splitter(self) -> Splitter:
        """Return the splitter, which finds where the steps of a rollout end."""
        return self.inversion_spec().step_splitter()

    def signal_spec(self) -> SignalSpec:
        """Return the options that say what is measured, and how; see `InversionSpec.signal_spec`."""
        return self.inversion_spec().signal_spec()

    def weight_at(self, step: int, max_steps: int) -> float:
        """Return λ, the weight of inversion, before optimizer step `step` of `max_steps`."""
        return self.inversion_spec().weight_at(step, max_steps)


OWN_FIELDS: tuple[str, ...] = (
    *(PREFIX + option.name for option in _OPTIONS),
    "dynamic_sampling",
    "token_advantages",
    "share_logprobs",
)
# The values of these fields in runs that were made before the fields existed. ρ of these runs is over tokens, so the
# options of steps have no effect.
BEFORE_THE_FIELD: Mapping[str, object] = {
    "inversion_unit": "token",
    "inversion_undefined": "neutral",
    "inversion_tied": "keep",
    "inversion_segment": "all",
    "inversion_splitter": DEFAULT_SPLITTER,
    "inversion_step_strength": "mean",
    "inversion_min_steps": MIN_STEPS,
    "dynamic_sampling": 0,
    "token_advantages": "none",
    "share_logprobs": False,
}
