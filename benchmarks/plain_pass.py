"""CPU time of `own` beside that of a plain forward and backward pass, in one process, alternating.

The model is a Llama of the shape of SmolLM2-135M with random weights, in float32. The plain pass goes through the
body without the head, and backward to the embeddings, without gradients at weights. `own` measures every token of one
rollout of the same length, head included. Ratios are taken within a round. CPU time is used, because other programs
on the machine change it less than the time on the clock.

    python benchmarks/plain_pass.py [--lengths 256,512,1024] [--rounds 3] [--out benchmarks/results]

Writes OUT/plain-pass-cpu.json.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.runs.versions import commit, versions
from long_rows import SHAPE


def seconds(work, model: LlamaForCausalLM, ids: list[int]) -> float:
    start = time.process_time()
    work(model, ids)
    return time.process_time() - start


def plain(model: LlamaForCausalLM, ids: list[int]) -> None:
    embedded = model.model.embed_tokens(torch.tensor([ids])).requires_grad_()
    model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state.sum().backward()


def own(model: LlamaForCausalLM, ids: list[int]) -> None:
    token_signals(model, TokenBatch.from_ids([ids[:1]], [ids[1:]]), SignalSpec(token_budget=len(ids)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="256,512,1024")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=8192)).eval().requires_grad_(False)
    rows = []
    for length in map(int, options.lengths.split(",")):
        ids = torch.randint(3, SHAPE["vocab_size"], (length,)).tolist()
        own(model, ids[:64]), plain(model, ids[:64])  # warm-up
        pairs = [(seconds(plain, model, ids), seconds(own, model, ids)) for _ in range(options.rounds)]
        ratios = [of_own / of_plain for of_plain, of_own in pairs]
        middle = np.median(pairs, axis=0)
        rows.append(
            {
                "tokens": length, "rounds": options.rounds, "plain_seconds_p50": float(middle[0]),
                "own_seconds_p50": float(middle[1]), "ratio_least": min(ratios),
                "ratio_p50": float(np.median(ratios)), "ratio_greatest": max(ratios),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    report = {
        "machine": platform.machine(), "cores": os.cpu_count(), "threads": 1, "dtype": "float32",
        "versions": versions(), "commit": commit(), "rows": rows,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plain-pass-cpu.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
