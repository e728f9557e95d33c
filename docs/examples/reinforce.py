"""Bare REINFORCE with the inversion term, in PyTorch alone: how any training engine uses `InversionReward`.

It samples completions, verifies them, measures them, combines both rewards and takes a step. Nothing here imports TRL.
`python docs/examples/reinforce.py MODEL` trains for 20 steps; without MODEL, the embedded demo model.
"""

import sys
from collections.abc import Iterator

import torch

from antiphase import InversionReward, InversionSpec, TokenBatch, load_model
from antiphase.models.loading import LoadedModel
from antiphase.reward import group_mean
from antiphase.rollouts.sampling import generate
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.tasks.registry import load_task

PROMPTS, GROUP = 2, 8  # so many problems a step, and rollouts of each
SAMPLING = Sampling(max_new_tokens=16)
TEMPLATE = "43+7=50, since 43+7=50\n78+5=83, since 78+5=83\n{prompt}="


def train(policy: LoadedModel, spec: InversionSpec, *, steps: int, learning_rate: float) -> Iterator[dict[str, float]]:
    """Train on sums, and yield the metrics of every step."""
    model, tokenizer, inversion = policy.model, policy.tokenizer, InversionReward(spec)
    inversion.check(model, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    task = load_task("sums:digits=2|1")
    problems = task.problems("train", PROMPTS * steps, seed=0)
    for step in range(steps):
        asked = [p for p in problems[PROMPTS * step : PROMPTS * (step + 1)] for _ in range(GROUP)]
        prompts = [tokenizer(TEMPLATE.replace("{prompt}", p.prompt)).input_ids for p in asked]
        seeds = rollout_seeds(step, prompts)
        completions = [ids for ids, _ in generate(policy, prompts, SAMPLING, seeds)]
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        right = torch.tensor([float(task.verify(text, p)) for text, p in zip(texts, asked, strict=True)])

        batch = TokenBatch.from_ids(prompts, completions, device=policy.device)
        facts = inversion.measure(model, batch, tokenizer)
        combined = inversion.combine(
            facts, right, group_size=GROUP, weight=spec.weight_at(step, steps), accepted=spec.accepts(right)
        )
        advantage = combined.reward - group_mean(combined.reward, GROUP) + combined.advantage

        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits[:, :-1]
        logprobs = logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
        of_rollout = (logprobs * batch.completion_mask[:, 1:]).sum(1)
        optimizer.zero_grad()
        (-(advantage.to(of_rollout) * of_rollout).mean()).backward()
        optimizer.step()
        yield {"reward": float(combined.reward.mean()), **combined.metrics}


if __name__ == "__main__":
    # Over tokens: completions of 16 tokens have no five sentences.
    spec = InversionSpec(weight=0.2, combine="centered", unit="token")
    for number, row in enumerate(train(load_model(*(sys.argv[1:] or ["demo"])), spec, steps=20, learning_rate=1e-5)):
        shown = ("reward", "task/accuracy", "inversion/mean", "inversion/undefined", "rollout/entropy")
        print(number, "  ".join(f"{name} {row[name]:.3f}" for name in shown), flush=True)
