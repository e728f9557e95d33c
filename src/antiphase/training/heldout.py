"""Measures the policy's accuracy on held-out problems before, during and after training.

The policy completes each problem greedily once and by sampling several times. The samples have a random state of their
own, so an evaluation does not change the training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from transformers import TrainerCallback

from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.statistics.estimate import share_interval
from antiphase.steps.thoughts import completion_text
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.task_rewards import failure_shares
from antiphase.tasks.verdict import Outcome
from antiphase.training.policy import whole_policy
from antiphase.training.step_clock import timed
from antiphase.training.tracking import log_numbers
from antiphase.training.trajectory import Trajectory


@dataclass(frozen=True)
class HeldOut:
    """Held-out problems with their tokenised prompts, and how completions of them are sampled.

    Args:
        problems: the held-out problems.
        prompt_ids: token ids of their prompts, one row for each problem.
        samples: number of sampled completions of each problem, besides the greedy one.
        sampling: how the samples are drawn. The greedy completion has the same options, but temperature 0.
        batch_size: number of rollouts that are generated together.
    """

    problems: tuple[Problem, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    samples: int
    sampling: Sampling
    batch_size: int


class _Answer(NamedTuple):
    """The result of verifying one completion: whether it is right, and why (`outcome`).

    `length` is the number of the completion's tokens. `truncated` says whether the length limit ended the completion.
    """

    right: bool
    outcome: Outcome
    length: int
    truncated: bool


def evaluate_policy(
    loaded: LoadedModel, held: HeldOut, pool: VerifierPool, *, rank: int = 0, world: int = 1
) -> dict[str, float]:
    """Complete the held-out problems with the policy, and return its accuracy and the lengths of its completions.

    pass@1 is the share of right completions among the sampled ones. pass@k is the share of problems that have a right
    completion among their k samples. The mean length and the shares of failures (such as completions that were cut
    off) are computed over the sampled completions.

    Args:
        loaded: the policy with its tokenizer.
        held: the problems, and how completions of them are sampled.
        pool: the verifier processes, which check the completions.
        rank, world: index of this process, and number of processes that share the problems.

    Returns:
        a mapping from names, which docs/metrics.md explains, to shares in [0, 1], counts, and a mean length in tokens.
        Every process returns the same numbers. Names that end in `_low` and `_high` are the ends of a 95 % interval
        over problems, from `share_interval`.
    """
    chosen = list(range(rank, len(held.problems), world))
    drawn = _answers(loaded, held, chosen, held.samples, held.sampling, pool)
    greedy = _answers(loaded, held, chosen, 1, replace(held.sampling, temperature=0.0), pool)
    rows = list(zip(chosen, drawn, greedy, strict=True))
    if world > 1:
        from accelerate.utils import gather_object

        rows = sorted(gather_object(rows))
    right = [[answer.right for answer in samples] for _, samples, _ in rows]
    answers = [answer for _, samples, _ in rows for answer in samples]
    failures = failure_shares([answer.outcome for answer in answers])
    accuracy = share_interval(np.array([sum(samples) / len(samples) for samples in right]))
    return {
        "heldout/pass@1": accuracy.value,
        "heldout/pass@1_low": accuracy.low,
        "heldout/pass@1_high": accuracy.high,
        f"heldout/pass@{held.samples}": sum(map(any, right)) / len(rows),
        "heldout/greedy": sum(greedy.right for _, _, [greedy] in rows) / len(rows),
        "heldout/length": sum(answer.length for answer in answers) / len(answers),
        "heldout/truncated": sum(answer.truncated for answer in answers) / len(answers),
        **{f"heldout/{name}": share for name, share in failures.items()},
        "heldout/num_problems": len(rows),
        "heldout/num_samples": held.samples,
    }


def _answers(
    loaded: LoadedModel, held: HeldOut, chosen: Sequence[int], samples: int, sampling: Sampling, pool: VerifierPool
) -> list[list[_Answer]]:
    """Complete the chosen problems, verify the completions, and return the results, a list for each problem.

    `chosen` holds the indices of the problems, and `samples` is the number of completions of each problem.
    """
    # The seeds are those of the whole list, so they do not depend on the number of processes.
    every = [ids for ids in held.prompt_ids for _ in range(samples)]
    seeds = rollout_seeds(sampling.seed, every)
    rows = [place * samples + sample for place in chosen for sample in range(samples)]
    results: list[_Answer] = []
    for start in range(0, len(rows), held.batch_size):
        part = rows[start : start + held.batch_size]
        batch = [row // samples for row in part]
        rollouts = generate(loaded, [every[row] for row in part], sampling, [seeds[row] for row in part])
        texts = [
            completion_text(loaded.tokenizer, ids, held.prompt_ids[place], pool.tags)
            for (ids, _), place in zip(rollouts, batch, strict=True)
        ]
        verdicts = pool.check(
            [(text, held.problems[place]) for text, place in zip(texts, batch, strict=True)],
            finishes=[finish for _, finish in rollouts],
        )
        results += [
            _Answer(verdict.correct, verdict.outcome, len(ids), finish == "length")
            for verdict, (ids, finish) in zip(verdicts, rollouts, strict=True)
        ]
    return [results[i : i + samples] for i in range(0, len(results), samples)]


class HeldOutCallback(TrainerCallback):  # type: ignore[misc]
    """Callback that evaluates the policy on held-out problems, and writes rows of kind `eval` to the trajectory.

    Args:
        held: the problems, and how completions of them are sampled.
        trajectory: the file to which the rows are written.
        tokenizer: the policy's tokenizer.
        pool: the verifier processes, which check the completions.
        every_n_steps: number of optimizer steps between two evaluations. The policy is always evaluated before the
            first step and after the last step. With 0, there are no other evaluations.
    """

    def __init__(
        self, held: HeldOut, trajectory: Trajectory, tokenizer: Any, pool: VerifierPool, every_n_steps: int = 0
    ) -> None:
        self.held, self.trajectory, self.tokenizer, self.pool = held, trajectory, tokenizer, pool
        self.every_n_steps = every_n_steps
        self.trainer: Any = None
        self.interruption: Any = None
        self._done_at = math.nan

    def evaluate(self, step: int, *, track: bool = True) -> dict[str, float]:
        """Evaluate the policy now, and write the results as a row of the trajectory.

        The returned mapping has the name and the value of each result.

        Args:
            step: number of optimizer steps before the evaluation.
            track: whether the results are also sent to the trackers, such as TensorBoard. After the end of the
                training, trackers accept nothing more.
        """
        with timed(self.trainer, "evaluation"):
            return self._evaluate(step, track)

    def _evaluate(self, step: int, track: bool) -> dict[str, float]:
        accelerator = self.trainer.accelerator
        with whole_policy(
            self.trainer.model_wrapped, accelerator, self.trainer.args.gradient_checkpointing_kwargs
        ) as policy:
            loaded = LoadedModel("policy", policy, self.tokenizer, None)
            numbers = evaluate_policy(
                loaded, self.held, self.pool, rank=accelerator.process_index, world=accelerator.num_processes
            )
        self._done_at = step
        if accelerator.is_main_process:
            self.trajectory.append("eval", step, numbers)
            if track:
                log_numbers(self.trainer, self.trainer.control, numbers)
            low, high = (numbers[f"heldout/pass@1_{end}"] for end in ("low", "high"))
            num = len(self.held.problems)
            problems = "1 problem" if num == 1 else f"{num} problems"
            print(
                f"step {step}: held-out pass@1 {numbers['heldout/pass@1']:.3f} [{low:.3f}, {high:.3f}], "
                f"greedy {numbers['heldout/greedy']:.3f} ({problems})",
                flush=True,
            )
        return numbers

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate the untrained policy."""
        if state.global_step == 0:
            self.evaluate(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate the policy after every `every_n_steps` steps, and after the last step."""
        due = self.every_n_steps and state.global_step % self.every_n_steps == 0
        if due or state.global_step >= state.max_steps:
            self.evaluate(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate the policy if the training ended before its last planned step, but not if a signal stopped it."""
        interrupted = self.interruption is not None and self.interruption.stopped
        if self._done_at != state.global_step and not interrupted:
            self.evaluate(state.global_step, track=False)
