"""How often does a rollout differ between batch sizes, although it has a random stream of its own?

The draws of a rollout do not depend on the batch. But batches of other shapes round the logits differently, and if two
tokens are almost tied, rounding can decide between them. From there on, the two completions differ. The model writes
the same rollouts with every batch size. Each rollout is compared with that of the first batch size in the list.

    python benchmarks/draws.py [--model demo] [--prompts 25] [--samples 4] [--tokens 64] [--out benchmarks/results]

Writes OUT/draws-DEVICE.json, one row per batch size. `beside` is the batch size that a row is compared with.
"""

import argparse
from pathlib import Path

import torch

from antiphase import load_model
from antiphase.data.prompt_rendering import PromptFormat
from antiphase.data.prompts import load_prompts
from antiphase.rollouts.sampling import Sampling, generate
from antiphase.rollouts.sampling_spec import rollout_seeds
from rows import device_name, write


def written(loaded, prompts, sampling: Sampling, size: int) -> list[list[int]]:
    """Return the completion of every prompt, generated in batches of this size."""
    seeds, found = rollout_seeds(sampling.seed, prompts), []
    for start in range(0, len(prompts), size):
        some = slice(start, start + size)
        found += [ids for ids, _ in generate(loaded, prompts[some], sampling, seeds[some])]
        print(f"batches of {size}: {len(found)} of {len(prompts)} rollouts", flush=True)
    return found


def first_difference(one: list[int], other: list[int]) -> int | None:
    """Return the position of the first token that differs; None if the completions are equal."""
    if one == other:
        return None
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sizes", default="1,3,16")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded, form = load_model(options.model, dtype=options.dtype), PromptFormat()
    texts = [prompt.content for prompt in load_prompts("gsm8k", options.prompts)]
    prompts = [form.encode(loaded.tokenizer, text, "prompt") for text in texts for _ in range(options.samples)]
    sampling, rows, first = Sampling(max_new_tokens=options.tokens), [], []
    sizes = [int(size) for size in options.sizes.split(",")]
    for size in sizes:
        found = written(loaded, prompts, sampling, size)
        first = first or found
        places = [first_difference(one, other) for one, other in zip(first, found, strict=True)]
        differing = [place for place in places if place is not None]
        row = {"batch_size": size, "rollouts": len(found), "tokens": sum(map(len, found)), "differing": len(differing)}
        rows.append({**row, "first_differences": sorted(differing), "dtype": loaded.dtype, "beside": sizes[0]})
        print(rows[-1], flush=True)
    name = device_name().replace("x86_64", "cpu")
    write(options.out / f"draws-{name}.json", rows, model=options.model, max_new_tokens=options.tokens)


if __name__ == "__main__":
    main()
