"""The options of a probe. The run folder stores them, and a run can be continued only with the same options."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from antiphase.data.chat_template import ChatOptions
from antiphase.data.prompt_rendering import PromptFormat, check_used
from antiphase.data.prompts import BUILT_IN, STEP_BY_STEP
from antiphase.errors import InvalidInputError
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.runs.run_config import RunConfig, signal_specs
from antiphase.signal_spec import SignalSpec

DEFAULT_NUM_PROMPTS = 16


@dataclass(frozen=True)
class ProbeConfig(RunConfig):
    """The options of a probe: those below, and all options of `RunConfig`.

    If `prompt_template` is None, a template that asks for step-by-step reasoning is put around the built-in questions.

    Args:
        signal_temperature: the number that divides the logits before the entropy is computed
            (`SignalSpec.temperature`). It does not change the sampling.
        alternatives: how many of the most probable next tokens are stored for every position; 0 stores none.
        prompts: the source of the prompts: `gsm8k`, a file, a hub data set, or a tuple of texts (see `load_prompts`).
        prompt_column: the column of the prompt; None takes the first column with a usual name, such as `question`.
        num_prompts: the number of prompts, or `all`. None takes all prompts of given rollouts; if no rollouts are
            given, it takes at most 16 prompts.
        chat_template: whether the model's chat template is applied, if it has one.
        continue_final: whether a chat may end with a message of the assistant, which the model then continues; see
            `ChatOptions`.
        samples: the number of completions of each prompt.
        max_new_tokens: the greatest number of generated tokens of a completion.
        share_rollouts: whether all models are measured on the completions of the first model.
        allow_short: whether given rollouts may have fewer than `min_tokens` tokens. The ρ of such a rollout is
            undefined.
    """

    signal_temperature: float = 1.0
    alternatives: int = 5
    prompts: str | tuple[str, ...] = BUILT_IN
    prompt_column: str | None = None
    num_prompts: int | Literal["all"] | None = None
    chat_template: bool = True
    continue_final: bool = False
    samples: int = 1
    max_new_tokens: int = 128
    share_rollouts: bool = False
    allow_short: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_used(self.chat_template_kwargs, self.chat_template)
        self.check_counts("samples")
        if self.alternatives < 0:
            raise InvalidInputError(f"alternatives must be at least 0; got {self.alternatives}.")
        if self.rollouts is None and self.max_new_tokens < self.min_tokens:
            raise InvalidInputError(
                f"max_new_tokens {self.max_new_tokens} is below min_tokens {self.min_tokens}: no rollout could have a "
                "correlation. Raise --max-new-tokens or lower --min-tokens."
            )
        if self.rollouts is not None and self.share_rollouts:
            raise InvalidInputError(
                "rollouts and share_rollouts exclude each other: given rollouts are shared already."
            )
        if isinstance(self.num_prompts, int) and self.num_prompts < 1:
            raise InvalidInputError(f"num_prompts must be at least 1; got {self.num_prompts}.")
        # The results are not used. These calls raise an error if an option is wrong.
        self.sampling(), self.prompt_format()

    @property
    def prompt_limit(self) -> int | None:
        """The greatest number of prompts that the probe takes; None takes all."""
        if self.num_prompts is None:
            return None if self.rollouts is not None else DEFAULT_NUM_PROMPTS
        return None if self.num_prompts == "all" else self.num_prompts

    def specs(self) -> tuple[SignalSpec, ...]:
        """Return a `SignalSpec` (what is measured, and how) for each estimator.

        The most probable next tokens do not depend on the estimator, so only the first spec asks for them.
        """
        first, *others = signal_specs(self, self.signal_temperature)
        return (dataclasses.replace(first, num_alternatives=self.alternatives), *others)

    def sampling(self) -> Sampling:
        """Return the options for sampling completions: their length, temperature, top_p and seed."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_p, self.seed)

    def chat_options(self, moment: str | None = None) -> ChatOptions:
        """Return the options for calling chat templates; see `RunConfig.chat_options`."""
        return dataclasses.replace(super().chat_options(moment), continue_final=self.continue_final)

    def prompt_format(self, moment: str | None = None) -> PromptFormat:
        """Return the options that say what is put around every prompt.

        Args:
            moment: the time, in ISO format, that a chat template reads when it asks for the time; None is the present
                time.
        """
        template = self.prompt_template
        if template is None and self.prompts == BUILT_IN and self.rollouts is None:
            template = STEP_BY_STEP
        return PromptFormat(template, self.system_prompt, self.chat_template, self.chat_options(moment))
