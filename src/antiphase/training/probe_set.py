"""Defines a probe set, and measures a policy on it: ρ over every unit, with intervals over the set's prompts.

ρ is the correlation of entropy and gradient strength. A unit is what ρ is computed over: `type` (distinct token ids),
`token` (positions) or `step` (sentences).
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from antiphase.data.prompt_rendering import PromptFormat
from antiphase.data.prompts import Messages
from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.runs.unit_spec import DEFAULT_UNIT
from antiphase.score_spec import ScoreSpec
from antiphase.scores import rollout_scores
from antiphase.signal_spec import (
    SEGMENTS,
    STEP_STRENGTHS,
    UNITS,
    Segment,
    SignalSpec,
    StepStrength,
    Unit,
    check_one_of,
)
from antiphase.signals.measure import token_signals
from antiphase.statistics.minimums import MIN_STEPS, MIN_TOKENS
from antiphase.statistics.pooled_correlation import mean_within, pooled_correlation
from antiphase.steps import DEFAULT_SPLITTER, Splitter
from antiphase.steps.assigning import batch_steps
from antiphase.steps.segments import Tags, measured_batch
from antiphase.steps.thoughts import TAGS
from antiphase.types import TokenBatch, TokenSignals


@dataclass(frozen=True)
class ProbeSet:
    """The fixed prompts, or whole rollouts, on which a model is measured again and again during its training.

    Args:
        tokenizer: the model's tokenizer.
        prompt_ids: token ids of the prompt of each rollout.
        clusters: index of the prompt of each rollout; rollouts of one prompt have the same index.
        completion_ids: token ids of given completions. If this is None, the model writes its own completions at every
            measurement, each time with the same seed.
        sampling: how the model's own completions are drawn.
        batch_size: number of rollouts that are generated together.
    """

    tokenizer: Any
    prompt_ids: tuple[tuple[int, ...], ...]
    clusters: tuple[int, ...]
    completion_ids: tuple[tuple[int, ...], ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 16

    @classmethod
    def from_prompts(
        cls,
        prompts: Sequence[str | Messages],
        tokenizer: Any,
        *,
        samples: int = 1,
        sampling: Sampling | None = None,
        template: str | None = None,
        batch_size: int = 16,
    ) -> "ProbeSet":
        """Return a probe set whose prompts the model completes itself at every measurement (see docs/method.md).

        Args:
            prompts: plain texts or chats.
            tokenizer: the model's tokenizer.
            samples: number of completions of each prompt.
            sampling: how the completions are drawn.
            template: text with `{prompt}` in it, which is put around every plain-text prompt; None adds nothing.
            batch_size: number of rollouts that are generated together.

        Raises:
            InvalidInputError: there is no prompt, or a prompt has no tokens.
        """
        rows = tuple(ids for ids in _encoded(prompts, tokenizer, template) for _ in range(samples))
        clusters = tuple(i for i in range(len(prompts)) for _ in range(samples))
        return cls(tokenizer, rows, clusters, None, sampling or Sampling(), batch_size)

    @classmethod
    def from_rollouts(
        cls,
        prompts: Sequence[str | Messages],
        completions: Sequence[str],
        tokenizer: Any,
        *,
        template: str | None = None,
    ) -> "ProbeSet":
        """Return a probe set of given rollouts, which the model only reads.

        This is cheap, and all measurements are on the same tokens.

        Args:
            prompts: plain texts or chats.
            completions: a text for each prompt.
            tokenizer: the model's tokenizer.
            template: text with `{prompt}` in it, which is put around every plain-text prompt; None adds nothing.

        Raises:
            InvalidInputError: there are not as many completions as prompts, or a prompt or completion has no tokens.
        """
        rows = _encoded(prompts, tokenizer, template)
        if len(prompts) != len(completions):
            raise InvalidInputError(
                f"got {len(prompts)} prompts and {len(completions)} completions; give one completion for each prompt."
            )
        texts = [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in completions]
        for place, ids in enumerate(texts):
            if not ids:
                raise InvalidInputError(f"completion {place} has no tokens.")
        first = {str(prompt): i for i, prompt in reversed(list(enumerate(prompts)))}
        return cls(tokenizer, rows, tuple(first[str(prompt)] for prompt in prompts), tuple(texts))


def _encoded(prompts: Sequence[str | Messages], tokenizer: Any, template: str | None) -> tuple[tuple[int, ...], ...]:
    if not prompts:
        raise InvalidInputError("the probe set is empty; give at least one prompt.")
    form = PromptFormat(template)
    return tuple(tuple(form.encode(tokenizer, prompt, f"prompt {i}")) for i, prompt in enumerate(prompts))


def checked_options(
    unit: Unit, splitter: str, min_tokens: int, min_steps: int, segment: Segment = "all"
) -> tuple[Splitter, ScoreSpec]:
    """Check some arguments of `probe_policy`, and return them as a splitter and as the options of the scores.

    Raises:
        InvalidInputError: the unit, segment or splitter is unknown, or `min_tokens` or `min_steps` is below 3.
    """
    check_one_of("unit", unit, UNITS)
    check_one_of("segment", segment, SEGMENTS)
    return Splitter.parse(splitter), ScoreSpec(min_tokens=min_tokens, min_steps=min_steps)


def with_step_strength(spec: SignalSpec, step_strength: StepStrength | None) -> SignalSpec:
    """Return a copy of the measuring options with this `step_strength`; None returns them unchanged.

    Raises:
        InvalidInputError: the strength is neither `mean` nor `joint`.
    """
    if step_strength is None:
        return spec
    check_one_of("step_strength", step_strength, STEP_STRENGTHS)
    return dataclasses.replace(spec, step_strength=step_strength)


def probe_policy(
    model: Any,
    probe_set: ProbeSet,
    spec: SignalSpec,
    *,
    unit: Unit = DEFAULT_UNIT,
    segment: Segment = "all",
    splitter: str = DEFAULT_SPLITTER,
    step_strength: StepStrength | None = None,
    min_tokens: int = MIN_TOKENS,
    min_steps: int = MIN_STEPS,
    num_resamples: int = 1000,
    tags: Tags = TAGS,
) -> dict[str, float | str | int]:
    """Measure a model on a probe set: return ρ over every unit with its interval, and the means of the signals.

    ρ is pooled over the rollouts of the probe set, and the intervals are over its prompts. The measurement and the
    statistics are those of `antiphase probe`.

    Args:
        model: the model, unwrapped and with all its parameters on this process.
        probe_set: the prompts or rollouts on which the model is measured.
        spec: what to measure.
        unit: the main unit: `type` (as in the paper's fingerprint), `token` or `step`. Its ρ is also returned under
            names without a unit, such as `probe/spearman`.
        segment: which tokens of a rollout are measured and correlated: those of its `thought`, of its `answer`, or
            `all`.
        splitter: where steps end: `sentence`, `line`, `fixed:N` or `regex:PATTERN`.
        step_strength: `mean` or `joint`; None keeps what `spec` says.
        min_tokens: a rollout with fewer tokens (or types) has no ρ of its own. It is left out of the mean over
            rollouts, but its tokens still enter the pooled ρ.
        min_steps: a rollout with fewer steps has no ρ of its own over steps. It is left out of the mean of these ρ,
            but its steps still enter the pooled ρ.
        num_resamples: number of bootstrap samples of the prompts.
        tags: pairs of texts that open and close a thought.

    Returns:
        a mapping from the names that docs/metrics.md lists to the numbers. An undefined number is NaN.

    Raises:
        InvalidInputError: the unit, segment, splitter or step strength is unknown, or `min_tokens` or `min_steps` is
            below 3.
    """
    parsed, scores = checked_options(unit, splitter, min_tokens, min_steps, segment)
    spec = with_step_strength(spec, step_strength)
    completions = probe_set.completion_ids or _drawn(model, probe_set)
    whole = TokenBatch.from_ids(probe_set.prompt_ids, completions)
    batch = measured_batch(whole, probe_set.tokenizer, segment, tags)
    signals = token_signals(model, batch, spec, steps=batch_steps(batch, probe_set.tokenizer, parsed))
    inside = batch.completion_mask.cpu()
    entropy, strength = (values.cpu().double()[inside] for values in (signals.entropy, signals.strength))
    return {
        **_by_unit(signals, batch, probe_set, unit, scores, num_resamples),
        "probe/entropy": float(entropy.mean()) if len(entropy) else math.nan,
        "probe/strength": float(strength.nanmean()) if len(strength) else math.nan,
        "probe/length": int(whole.completion_mask.sum()) / len(whole),
        "probe/num_tokens": int(strength.isfinite().sum()),
        "probe/estimator": spec.estimator,
        "probe/unit": unit,
        "probe/rollouts": "own" if probe_set.completion_ids is None else "given",
    }


def _drawn(model: Any, probe_set: ProbeSet) -> tuple[tuple[int, ...], ...]:
    """Let the model complete the prompts of the probe set, and return the token ids of the completions."""
    loaded = LoadedModel("policy", model, probe_set.tokenizer, None)
    seeds = rollout_seeds(probe_set.sampling.seed, probe_set.prompt_ids)
    drawn: list[tuple[int, ...]] = []
    for start in range(0, len(probe_set.prompt_ids), probe_set.batch_size):
        part = slice(start, start + probe_set.batch_size)
        found = generate(loaded, probe_set.prompt_ids[part], probe_set.sampling, seeds[part])
        drawn += [tuple(ids) for ids, _ in found]
    return tuple(drawn)


def _by_unit(
    signals: TokenSignals, batch: TokenBatch, probe_set: ProbeSet, headline: Unit, spec: ScoreSpec, num_resamples: int
) -> dict[str, float | str | int]:
    """Return a mapping from names in docs/metrics.md to numbers: for every unit, ρ pooled over all rollouts.

    `headline` is the main unit. Its ρ is also returned under names without a unit, and so is the mean of the ρ of
    single rollouts.
    """
    steps = signals.steps
    assert steps is not None
    clusters, seed = torch.tensor(probe_set.clusters), signals.spec.seed
    inside, there = batch.completion_mask.cpu(), steps.num_tokens.cpu() > 0
    token_ids = batch.input_ids.cpu()[inside]
    tokens = (signals.entropy.cpu().double()[inside], signals.strength.cpu().double()[inside], inside)
    series = {
        "token": (*tokens, None),
        "type": (*tokens, token_ids),
        "step": (steps.entropy.cpu().double()[there], steps.strength.cpu().double()[there], there, None),
    }
    scores = rollout_scores(signals, batch, spec)
    found: dict[str, float | str | int] = {}
    for unit in UNITS:
        entropy, strength, where, ids = series[unit]
        pooled = pooled_correlation(
            entropy,
            strength,
            clusters[torch.nonzero(where)[:, 0]],
            unit=unit,
            token_ids=ids,
            min_tokens=spec.least_of(unit),
            num_resamples=num_resamples,
            seed=seed,
        )
        each = scores.by_unit[unit]
        within = mean_within(each, clusters, unit=unit, num_resamples=num_resamples, seed=seed)
        undefined = float(each.isnan().double().mean())
        numbers = {"": pooled.value, "_low": pooled.low, "_high": pooled.high}
        found |= {f"probe/spearman_{unit}{end}": value for end, value in numbers.items()}
        found[f"probe/undefined_{unit}"] = undefined
        if unit == headline:
            found |= {f"probe/spearman{end}": value for end, value in numbers.items()}
            found["probe/inversion"] = pooled.inversion
            found["probe/spearman_within"] = within.value
            found["probe/undefined"] = undefined
        if unit == "step":
            found["probe/num_steps"] = pooled.num_tokens
    return found
